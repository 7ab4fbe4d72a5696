// What goes wrong on an appliance, as the program that the kernel's command line puts into the server's place
// (rootstock.serve=). Its name says what:
//
//   hang  takes every processor from everybody, PID 1 and its watchdog's food included
//   hog   is a server that takes all memory; started again it is the real one, beside which another program,
//         ten seconds later, takes all memory
//
// The last case of a PID 1 that dies: stab writes nonsense over its code.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    if (file < 0 || write(file, text, strlen(text)) < 0) perror(path);
    close(file);
}

static _Noreturn void eat(void) {
    for (;;) {
        char *piece = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (piece != MAP_FAILED) memset(piece, 1, 1 << 20);
    }
}

static _Noreturn void hang(void) {
    // Not before PID 1 has the watchdog: who opens it then is told that it is busy.
    for (;;) {
        int watchdog = open("/dev/watchdog", O_WRONLY);
        if (watchdog < 0 && errno == EBUSY) break;
        if (watchdog >= 0) {
            if (write(watchdog, "V", 1) < 0) perror("watchdog");
            close(watchdog);
        }
        usleep(50000);
    }
    fprintf(stderr, "trouble: hangs now\n");
    put("/proc/sys/kernel/sched_rt_runtime_us", "-1");
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    for (long n = 0; n < processors; n++) {
        if (n + 1 < processors && fork() != 0) continue;
        cpu_set_t here;
        CPU_ZERO(&here);
        CPU_SET(n, &here);
        sched_setaffinity(0, sizeof here, &here);
        struct sched_param first = {.sched_priority = sched_get_priority_max(SCHED_FIFO)};
        if (sched_setscheduler(0, SCHED_FIFO, &first) < 0) perror("sched_setscheduler");
        for (;;) {}
    }
    abort();
}

static void hog(void) {
    static const char was_here[] = "/run/hog";
    if (access(was_here, F_OK) != 0) {
        close(creat(was_here, 0600));
        fprintf(stderr, "trouble: the server takes all memory\n");
        eat();
    }
    pid_t child = fork();
    if (child == 0) {
        if (fork() != 0) _exit(0);
        put("/proc/self/oom_score_adj", "0");
        sleep(10);
        fprintf(stderr, "trouble: another program takes all memory\n");
        eat();
    }
    waitpid(child, NULL, 0);
    execl("/bin/rootstock", "rootstock", "serve", "--appliance", (char *)NULL);
    perror("/bin/rootstock");
}

static void stab(void) {
    unsigned long from, to;
    char line[256];
    FILE *maps = fopen("/proc/1/maps", "r");
    int memory = open("/proc/1/mem", O_WRONLY);
    sleep(3);
    fprintf(stderr, "trouble: PID 1 gets nonsense for its code\n");
    while (maps && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx r-x", &from, &to) != 2 || !strstr(line, "r-x") || strstr(line, "[")) continue;
        char *nothing = calloc(1, to - from);
        if (pwrite(memory, nothing, to - from, (off_t)from) < 0) perror("/proc/1/mem");
        free(nothing);
    }
    pause();
}

int main(int count, char **words) {
    const char *name = count > 0 ? strrchr(words[0], '/') : NULL;
    if (name && strcmp(name, "/hang") == 0) hang();
    if (name && strcmp(name, "/hog") == 0) hog();
    if (name && strcmp(name, "/stab") == 0) stab();
    return 1;
}
