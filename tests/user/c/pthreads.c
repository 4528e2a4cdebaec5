/*
 * What the C library does with threads: create and join, detached threads, mutexes, condition variables, thread-local
 * variables, thread-specific data with destructors, once, read-write locks, malloc and free from many threads.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <errno.h>

enum { THREADS = 8 };

static void must(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "wrong: %s\n", what);
        exit(1);
    }
}

static void all(void *(*work)(void *))
{
    pthread_t ids[THREADS];
    for (long i = 0; i < THREADS; i++)
        must(pthread_create(&ids[i], NULL, work, (void *)i) == 0, "pthread_create");
    for (long i = 0; i < THREADS; i++)
        must(pthread_join(ids[i], NULL) == 0, "pthread_join");
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long count, turn;

static void *add(void *unused)
{
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(&lock);
        count++;
        pthread_mutex_unlock(&lock);
    }
    return unused;
}

static void *take_turns(void *argument)
{
    for (long round = 0; round < 50; round++) {
        pthread_mutex_lock(&lock);
        while (turn != round * THREADS + (long)argument)
            pthread_cond_wait(&changed, &lock);
        turn++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static __thread long own = 5;

static void *use_own(void *argument)
{
    must(own == 5, "a new thread's variable has its first value");
    own = (long)argument;
    for (int i = 0; i < 100; i++) {
        must(own == (long)argument, "the thread's own variable");
        struct timespec nap = {0, 1000};
        if (i % 25 == 0)
            nanosleep(&nap, NULL);
    }
    return NULL;
}

static pthread_key_t key;
static long destroyed;

static void destroy(void *value)
{
    __atomic_fetch_add(&destroyed, (long)value, __ATOMIC_SEQ_CST);
}

static void *use_key(void *argument)
{
    pthread_setspecific(key, (void *)((long)argument + 1));
    return NULL;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static long ran;

static void run_once(void)
{
    ran++;
}

static void *use_once(void *unused)
{
    pthread_once(&once, run_once);
    return unused;
}

static pthread_rwlock_t both = PTHREAD_RWLOCK_INITIALIZER;
static volatile long left, right;

static void *read_or_write(void *argument)
{
    for (int i = 0; i < 500; i++)
        if ((long)argument % 4 == 0) {
            pthread_rwlock_wrlock(&both);
            left++;
            right++;
            pthread_rwlock_unlock(&both);
        } else {
            pthread_rwlock_rdlock(&both);
            must(left == right, "a reader sees both writes");
            pthread_rwlock_unlock(&both);
        }
    return NULL;
}

/* Small and large blocks: brk, arenas that grow by mprotect, and mappings of their own. */
static void *allocate(void *argument)
{
    for (size_t i = 0; i < 200; i++) {
        size_t len = i % 10 == 0 ? 300000 : 16 + i * 37;
        unsigned char *block = malloc(len);
        must(block != NULL, "malloc");
        memset(block, (int)((long)argument + 1), len);
        unsigned char *larger = realloc(block, 2 * len);
        must(larger != NULL && larger[len - 1] == (long)argument + 1, "realloc keeps the content");
        free(larger);
    }
    return NULL;
}

static void *detached(void *unused)
{
    __atomic_fetch_add(&count, 1, __ATOMIC_SEQ_CST);
    return unused;
}

int main(void)
{
    all(add);
    printf("mutex: %ld\n", count);
    all(take_turns);
    printf("condition variable: %ld turns\n", turn);
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 5000000;
    if (soon.tv_nsec >= 1000000000) {
        soon.tv_sec++;
        soon.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&lock);
    int answer;
    do
        answer = pthread_cond_timedwait(&changed, &lock, &soon);
    while (answer == 0);
    pthread_mutex_unlock(&lock);
    printf("condition variable: timed out %d\n", answer == ETIMEDOUT);
    all(use_own);
    printf("thread-local variables: the main thread's is %ld\n", own);
    pthread_key_create(&key, destroy);
    all(use_key);
    printf("thread-specific data: %ld destroyed\n", destroyed);
    all(use_once);
    printf("once: %ld\n", ran);
    all(read_or_write);
    printf("read-write lock: %ld %ld\n", left, right);
    all(allocate);
    printf("malloc: done\n");
    count = 0;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (int i = 0; i < THREADS; i++) {
        pthread_t id;
        must(pthread_create(&id, &attributes, detached, NULL) == 0, "pthread_create");
    }
    while (__atomic_load_n(&count, __ATOMIC_SEQ_CST) < THREADS) {
        struct timespec nap = {0, 1000000};
        nanosleep(&nap, NULL);
    }
    printf("detached threads: %ld\n", count);
    return 0;
}
