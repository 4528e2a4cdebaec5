/*
 * ymm [MILLISECONDS]
 *
 * Two threads on each CPU keep values of their own in all vector registers, the x87 stack and the floating-point
 * control words, and compute long enough to be preempted many times: nobody may ever see another thread's values.
 * Every second round also makes a system call with the registers full.
 *
 * Prints the width that was checked on standard error: 32 bytes with AVX, 16 without.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

enum { REGISTERS = 16, MAX_THREADS = 128 };

static int avx;
static long milliseconds = 400;
static long cpus[MAX_THREADS], cpu_count;
static pthread_barrier_t together;

struct state {
    uint8_t vectors[REGISTERS][32];
    double x87;
    uint32_t mxcsr;
    uint16_t control;
};

#define EACH(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7) do(8) do(9) do(10) do(11) do(12) do(13) do(14) do(15)
#define LOAD_YMM(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n"
#define SAVE_YMM(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n"
#define LOAD_XMM(n) "movdqu " #n "*32(%[in]), %%xmm" #n "\n"
#define SAVE_XMM(n) "movdqu %%xmm" #n ", " #n "*32(%[out])\n"
#define CLOBBERS "rax", "rcx", "r11", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", \
                 "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* Loads everything, computes for a while (and makes a call, if asked), stores everything. */
#define KEEP(load, save, call)                                                                                         \
    __asm__ volatile(EACH(load)                                                                                        \
                     "ldmxcsr %[mxcsr]\n fldcw %[control]\n fldl %[x87]\n"                                             \
                     "mov %[spins], %%rax\n"                                                                           \
                     "1: dec %%rax\n jnz 1b\n" call                                                                    \
                     "fstpl %[x87_out]\n fnstcw %[control_out]\n stmxcsr %[mxcsr_out]\n" EACH(save)                    \
                     : [x87_out] "=m"(out->x87), [control_out] "=m"(out->control), [mxcsr_out] "=m"(out->mxcsr)        \
                     : [in] "r"(in->vectors), [out] "r"(out->vectors), [x87] "m"(in->x87), [control] "m"(in->control), \
                       [mxcsr] "m"(in->mxcsr), [spins] "r"(spins)                                                      \
                     : CLOBBERS)
/* sched_yield is call 24. */
#define YIELD "mov $24, %%eax\n syscall\n"

static void keep(const struct state *in, struct state *out, long spins, int call)
{
    if (avx) {
        if (call)
            KEEP(LOAD_YMM, SAVE_YMM, YIELD);
        else
            KEEP(LOAD_YMM, SAVE_YMM, "");
    } else {
        if (call)
            KEEP(LOAD_XMM, SAVE_XMM, YIELD);
        else
            KEEP(LOAD_XMM, SAVE_XMM, "");
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static void wrong(const char *what, long thread)
{
    fprintf(stderr, "wrong: thread %ld: %s\n", thread, what);
    exit(1);
}

static void *work(void *argument)
{
    long thread = (long)argument;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpus[thread / 2], &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        wrong("sched_setaffinity", thread);
    pthread_barrier_wait(&together);

    struct state in, out;
    memset(&in, 0, sizeof in);
    double end = now() + (double)milliseconds;
    for (long round = 0; round < 4 || now() < end; round++) {
        for (int r = 0; r < REGISTERS; r++)
            for (int i = 0; i < (avx ? 32 : 16); i++)
                in.vectors[r][i] = (uint8_t)(thread * 37 + round * 11 + r * 5 + i + 1);
        in.x87 = (double)(thread * 1000 + round);
        /* All exceptions masked; the rounding mode is the thread's own. */
        in.mxcsr = 0x1f80 | (uint32_t)(thread % 4) << 13;
        in.control = (uint16_t)(0x037f | (thread % 4) << 10);
        memset(&out, 0, sizeof out);
        keep(&in, &out, 300000, (int)(round % 2));
        if (memcmp(in.vectors, out.vectors, sizeof in.vectors) != 0)
            wrong("another thread's vectors", thread);
        if (in.x87 != out.x87)
            wrong("another thread's x87 stack", thread);
        if (in.control != out.control || (in.mxcsr & ~0x3fu) != (out.mxcsr & ~0x3fu))
            wrong("another thread's control words", thread);
        uint32_t usual = 0x1f80;
        uint16_t usual_control = 0x037f;
        __asm__ volatile("ldmxcsr %0\n fldcw %1" : : "m"(usual), "m"(usual_control));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        milliseconds = atol(argv[1]);
    __builtin_cpu_init();
    avx = __builtin_cpu_supports("avx") != 0;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        wrong("sched_getaffinity", -1);
    for (long cpu = 0; cpu < CPU_SETSIZE && cpu_count < MAX_THREADS / 2; cpu++)
        if (CPU_ISSET(cpu, &set))
            cpus[cpu_count++] = cpu;
    long threads = 2 * cpu_count;
    pthread_barrier_init(&together, NULL, (unsigned)threads);
    pthread_t ids[MAX_THREADS];
    for (long i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)i) != 0)
            wrong("pthread_create", i);
    for (long i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    fprintf(stderr, "%d bytes, %ld CPUs\n", avx ? 32 : 16, cpu_count);
    printf("two threads on each CPU kept their registers\n");
    return 0;
}
