/* Says hello, with its arguments and one environment variable; the exit status is the number of arguments. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    printf("hello from C\n");
    for (int i = 1; i < argc; i++)
        printf("argument %d: %s\n", i, argv[i]);
    const char *value = getenv("TESSERA_HELLO");
    if (value)
        printf("environment: %s\n", value);
    return argc - 1;
}
