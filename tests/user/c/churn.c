/*
 * churn apart|merged [ROUNDS] [THREADS] [PAGES]
 *
 * Threads that each map, fill, check, re-protect and unmap a region, over and over, and check every byte they wrote.
 *
 *   apart   each thread has a fixed place, and a PROT_NONE page parts it from the next
 *   merged  the places touch, so that the kernel merges the regions into one VMA
 *
 * A page's first access is a write, and nothing else in a round faults, so the number of page faults that the kernel
 * serves must be `touches`, plus what start and end of the program cost: a run of 0 rounds shows that.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { PAGE = 4096, STEP = 16, MAX_THREADS = 64 };

static long rounds = 1000, threads = 8, pages = 8;
static pthread_barrier_t together;
static char *places[MAX_THREADS];
static uint64_t touches[MAX_THREADS];

static void wrong(const char *what)
{
    fprintf(stderr, "wrong: %s\n", what);
    exit(1);
}

/* What word `index` of a page holds; never 0, which is what a fresh page holds. */
static uint64_t pattern(long thread, long round, long page, long index)
{
    uint64_t x = ((uint64_t)thread << 56 | (uint64_t)round << 24 | (uint64_t)page << 12 | (uint64_t)index) + 1;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    return (x ^ x >> 27) | 1;
}

static void fill(volatile uint64_t *words, long thread, long round)
{
    for (long page = 0; page < pages; page++)
        for (long i = 0; i < PAGE / 8; i += STEP) {
            uint64_t old = __atomic_exchange_n(&words[page * (PAGE / 8) + i], pattern(thread, round, page, i), __ATOMIC_RELAXED);
            if (old != 0)
                wrong("a fresh page is not zero");
        }
}

static void check(volatile uint64_t *words, long thread, long round)
{
    for (long page = 0; page < pages; page++)
        for (long i = 0; i < PAGE / 8; i += STEP)
            if (words[page * (PAGE / 8) + i] != pattern(thread, round, page, i))
                wrong("a page lost its content");
}

static void *work(void *argument)
{
    long thread = (long)argument;
    size_t len = (size_t)pages * PAGE;
    /* All threads run: from here on nobody else maps anything, and the reserved places can be given free. */
    pthread_barrier_wait(&together);
    if (munmap(places[thread], len) != 0)
        wrong("munmap of a reserved place");
    pthread_barrier_wait(&together);
    for (long round = 0; round < rounds; round++) {
        char *place = mmap(places[thread], len, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        if (place != places[thread])
            wrong("mmap");
        volatile uint64_t *words = (volatile uint64_t *)place;
        fill(words, thread, round);
        touches[thread] += (uint64_t)pages;
        check(words, thread, round);
        if (mprotect(place, len, PROT_READ) != 0)
            wrong("mprotect to read-only");
        check(words, thread, round);
        if (mprotect(place, len, PROT_READ | PROT_WRITE) != 0)
            wrong("mprotect to writable");
        words[round % pages * (PAGE / 8)] = 0;
        if (munmap(place, len) != 0)
            wrong("munmap");
    }
    /* Nobody gives its stack back, in whose place something could land, while others still work. */
    pthread_barrier_wait(&together);
    return NULL;
}

/* Maps pages without rights: they part regions, or reserve a place. */
static void reserve(char *place, size_t len)
{
    if (mmap(place, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != place)
        wrong("mmap without rights");
}

static void choose_places(int apart)
{
    size_t slice = (size_t)(pages + (apart ? 1 : 0)) * PAGE, all = slice * (size_t)threads;
    /* A gap that is large enough is found by mapping it and giving it back. */
    char *arena = mmap(NULL, all + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED || munmap(arena, all + 2 * PAGE) != 0)
        wrong("no room");
    reserve(arena, PAGE);
    reserve(arena + PAGE + all, PAGE);
    for (long i = 0; i < threads; i++) {
        places[i] = arena + PAGE + slice * (size_t)i;
        reserve(places[i], (size_t)pages * PAGE);
        if (apart)
            reserve(places[i] + pages * PAGE, PAGE);
    }
}

int main(int argc, char **argv)
{
    int apart = argc > 1 && strcmp(argv[1], "apart") == 0;
    if (!apart && (argc < 2 || strcmp(argv[1], "merged") != 0)) {
        fprintf(stderr, "apart or merged?\n");
        return 2;
    }
    if (argc > 2)
        rounds = atol(argv[2]);
    if (argc > 3)
        threads = atol(argv[3]);
    if (argc > 4)
        pages = atol(argv[4]);
    if (threads < 1 || threads > MAX_THREADS || pages < 1 || rounds < 0) {
        fprintf(stderr, "numbers out of range\n");
        return 2;
    }
    choose_places(apart);
    pthread_barrier_init(&together, NULL, (unsigned)threads);
    pthread_t ids[MAX_THREADS];
    for (long i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)i) != 0)
            wrong("pthread_create");
    uint64_t sum = 0;
    for (long i = 0; i < threads; i++) {
        if (pthread_join(ids[i], NULL) != 0)
            wrong("pthread_join");
        sum += touches[i];
    }
    printf("touches=%llu\n", (unsigned long long)sum);
    return 0;
}
