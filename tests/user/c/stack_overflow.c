/* Recurses until the stack is full: killed by SIGSEGV. (Rust programs catch that signal, and say something instead.) */
#include <stdio.h>
#include <string.h>

static long deep(long depth)
{
    volatile char page[4096];
    memset((char *)page, (int)depth, sizeof page);
    return depth < 0 ? 0 : deep(depth + 1) + page[depth % 4096];
}

int main(void)
{
    /* A quarter of the usual 8 MiB must be there. */
    volatile char used[2 << 20];
    for (size_t i = sizeof used; i > 0; i -= 4096)
        used[i - 1] = 1;
    printf("2 MiB of stack work\n");
    fflush(stdout);
    printf("%ld\n", deep(0));
    return 0;
}
