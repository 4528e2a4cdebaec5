/*
 * Where a stretch begins and ends that somebody outside the machine counts (`cargo run -- run --count`).
 *
 * Each is one instruction that does nothing: a seven-byte NOP whose displacement is the message (kernel/abi/src/marker.rs).
 * Say MARKER_ARM() once, then open and close windows 0 to 15 as often as you like: a window's counts add up. The same
 * program runs anywhere else, and is not counted there.
 */
#ifndef TESSERA_MARKER_H
#define TESSERA_MARKER_H

#include <sched.h>

/* The NOP's displacement: 0x7e55, four bits of what, twelve bits of window. */
#define MARKER_WORD(what, window) (0x7e550000 | (what) << 12 | (window))
#define MARKER(what, window) \
    __asm__ volatile(".byte 0x0f, 0x1f, 0x80\n\t.long %c0" : : "i"(MARKER_WORD(what, window)) : "memory")

/* On the CPU that executes it: pin the thread. */
#define MARKER_BEGIN(window) MARKER(0, window)
#define MARKER_END(window) MARKER(1, window)
/* On all CPUs. */
#define MARKER_BEGIN_ALL(window) MARKER(2, window)
#define MARKER_END_ALL(window) MARKER(3, window)
/* The counter gets ready when this CPU next leaves a block of instructions: a call of the kernel is many of them. */
#define MARKER_ARM() \
    do { \
        MARKER(4, 0); \
        sched_yield(); \
    } while (0)

#endif
