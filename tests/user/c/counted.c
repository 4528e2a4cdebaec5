/*
 * counted
 *
 * Loops whose instructions were counted by hand, between markers. What a counter says about each window must be what
 * stands above it; the test knows the same numbers.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>

#include "marker.h"

static long word[8] __attribute__((aligned(64)));

#define NOP(what, window) ".byte 0x0f, 0x1f, 0x80\n\t.long " #what " << 12 | " #window " | 0x7e550000\n\t"

int main(void)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) {
        perror("sched_setaffinity");
        return 1;
    }
    word[0] = 1;
    MARKER_ARM();

    /* Window 0: nothing at all. */
    MARKER_BEGIN(0);
    MARKER_END(0);

    /* Window 1: 1 + 2 * 1000 instructions, none locked. */
    __asm__ volatile(NOP(0, 1) "mov $1000, %%ecx\n"
                               "1: dec %%ecx\n\t"
                               "jnz 1b\n\t" NOP(1, 1)
                     :
                     :
                     : "ecx", "cc", "memory");

    /* Window 2: 1 + 7 * 300 instructions, 4 * 300 of them locked. */
    __asm__ volatile(NOP(0, 2) "mov $300, %%ecx\n"
                               "1: lock incq (%0)\n\t"
                               "xchg %%rax, (%0)\n\t" /* locks without a prefix */
                               "xchg %%rax, %%rdx\n\t" /* does not lock */
                               "xchgb %%al, 8(%0)\n\t"
                               "lock cmpxchgq %%rdx, 16(%0)\n\t"
                               "dec %%ecx\n\t"
                               "jnz 1b\n\t" NOP(1, 2)
                     :
                     : "r"(word)
                     : "rax", "rdx", "ecx", "cc", "memory");

    /* Window 1 again: 5 more. */
    __asm__ volatile(NOP(0, 1) "nop; nop; nop; nop; nop\n\t" NOP(1, 1) : : : "memory");

    printf("counted\n");
    return 0;
}
