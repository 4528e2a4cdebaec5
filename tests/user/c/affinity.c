// Threads move themselves and each other from CPU to CPU at the same time; none may get lost on the way.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 3, ROUNDS = 400 };

static atomic_int tids[THREADS];
static pthread_barrier_t all_moved;
static cpu_set_t allowed;
static int cpus[CPU_SETSIZE], cpu_count;

static void wrong(const char *what)
{
    perror(what);
    exit(1);
}

// Lets thread `tid` (0: the caller) run on the `number`th CPU alone.
static void move(int tid, unsigned number)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpus[number % cpu_count], &set);
    if (sched_setaffinity(tid, sizeof set, &set) != 0)
        wrong("sched_setaffinity");
}

static void *mover(void *argument)
{
    unsigned me = (unsigned)(unsigned long)argument;
    tids[me] = gettid();
    for (int other = 0; other < THREADS; other++)
        while (tids[other] == 0)
            sched_yield();
    for (unsigned round = 0; round < ROUNDS; round++) {
        move(0, round + me);
        move(tids[(me + 1 + round % (THREADS - 1)) % THREADS], round * 7 + me);
    }
    // Nobody ends while another may still move it.
    pthread_barrier_wait(&all_moved);
    if (sched_setaffinity(0, sizeof allowed, &allowed) != 0)
        wrong("sched_setaffinity");
    return NULL;
}

int main(void)
{
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        wrong("sched_getaffinity");
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed))
            cpus[cpu_count++] = cpu;
    pthread_t threads[THREADS];
    pthread_barrier_init(&all_moved, NULL, THREADS);
    for (unsigned long thread = 0; thread < THREADS; thread++)
        if (pthread_create(&threads[thread], NULL, mover, (void *)thread) != 0)
            wrong("pthread_create");
    for (int thread = 0; thread < THREADS; thread++)
        pthread_join(threads[thread], NULL);
    printf("%d threads moved themselves and each other %d times each\n", THREADS, ROUNDS);
    return 0;
}
