/*
 * A stand-in for PID 1 that proves an image in QEMU: the modules load by modalias and by
 * name from the text files that board/image leaves, the devices appear, the file systems
 * mount, mke2fs and e2fsck run, the display's bus and the buttons' lines work.
 *
 * It prints one "probe: ok ..." or "probe: FAIL ..." line for each, then powers off.
 * Not part of the product: the appliance's own init is in src/.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/gpio.h>
#include <linux/i2c-dev.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MODULES_MAX = 512, ALIASES_MAX = 4096, BUTTON_LINE = 17 };

static char base[128];
static char *dep_lines[MODULES_MAX];
static char *alias_lines[ALIASES_MAX];
static int loaded, failed_loads;

static double uptime(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void verdict(int good, const char *what) {
    printf("probe: %s %s (%.2f s%s%s)\n", good ? "ok" : "FAIL", what, uptime(), good ? "" : ", ", good ? "" : strerror(errno));
    fflush(stdout);
}

static void read_lines(const char *name, char **lines, int max) {
    char path[256], line[4096];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", base, name);
    FILE *file = fopen(path, "r");
    while (file && n < max - 1 && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        lines[n++] = strdup(line);
    }
    if (file) fclose(file);
}

/* 'name' with - as _, as the kernel compares module names, up to ".ko". */
static void canonical(const char *path, char *out, size_t size) {
    const char *slash = strrchr(path, '/');
    snprintf(out, size, "%s", slash ? slash + 1 : path);
    char *dot = strstr(out, ".ko");
    if (dot) *dot = 0;
    for (char *c = out; *c; c++) if (*c == '-') *c = '_';
}

static void insert_file(const char *path) {
    char full[512];
    snprintf(full, sizeof full, "%s/%s", base, path);
    int fd = open(full, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && syscall(SYS_finit_module, fd, "", 0) == 0) loaded++;
    else if (errno != EEXIST) { failed_loads++; printf("probe: module %s: %s\n", path, strerror(errno)); }
    if (fd >= 0) close(fd);
}

/* A line of modules.dep is "FILE: DEPENDENCY...", the deepest dependency last. */
static int load(const char *name) {
    char want[128], have[128], copy[4096];
    canonical(name, want, sizeof want);
    for (int i = 0; dep_lines[i]; i++) {
        snprintf(copy, sizeof copy, "%s", dep_lines[i]);
        char *colon = strchr(copy, ':');
        if (!colon) continue;
        *colon = 0;
        canonical(copy, have, sizeof have);
        if (strcmp(want, have)) continue;
        char *deps[64];
        int n = 0;
        for (char *d = strtok(colon + 1, " "); d && n < 64; d = strtok(NULL, " ")) deps[n++] = d;
        while (n > 0) insert_file(deps[--n]);
        insert_file(copy);
        return 1;
    }
    return 0;
}

static void load_for(const char *modalias) {
    char pattern[1024], name[128];
    for (int i = 0; alias_lines[i]; i++)
        if (sscanf(alias_lines[i], "alias %1023s %127s", pattern, name) == 2 && fnmatch(pattern, modalias, 0) == 0)
            load(name);
}

static void walk(const char *folder, int depth) {
    DIR *dir = depth < 24 ? opendir(folder) : NULL;
    struct dirent *entry;
    char path[1024], alias[1024];
    while (dir && (entry = readdir(dir))) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (entry->d_type == DT_DIR) walk(path, depth + 1);
        else if (strcmp(entry->d_name, "modalias") == 0) {
            int fd = open(path, O_RDONLY);
            ssize_t n = read(fd, alias, sizeof alias - 1);
            close(fd);
            if (n <= 0) continue;
            alias[n] = 0;
            alias[strcspn(alias, "\n")] = 0;
            load_for(alias);
        }
    }
    if (dir) closedir(dir);
}

static void load_named(void) {
    char line[256], name[64];
    FILE *file = fopen("/etc/rootstock/modules", "r");
    while (file && fgets(line, sizeof line, file))
        if (line[0] != '#' && sscanf(line, "%63s", name) == 1 && !load(name))
            printf("probe: FAIL no module %s\n", name);
    if (file) fclose(file);
}

static int exists(const char *path) { return access(path, F_OK) == 0; }

static int run(char *const argv[]) {
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        execv(argv[0], argv);
        _exit(127);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void list(const char *folder) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    printf("probe: %s:", folder);
    while (dir && (entry = readdir(dir))) if (entry->d_name[0] != '.') printf(" %s", entry->d_name);
    printf("\n");
    if (dir) closedir(dir);
}

static void file_systems(const char *card) {
    mkdir("/mnt/card", 0755); mkdir("/mnt/exfat", 0755); mkdir("/mnt/ext4", 0755); mkdir("/mnt/root", 0755);
    verdict(mount(card, "/mnt/card", "vfat", MS_RDONLY, "") == 0 && exists("/mnt/card/kernel8.img"), "vfat: the card's boot partition");
    verdict(mount("/dev/sda1", "/mnt/exfat", "exfat", MS_RDONLY, "") == 0, "exfat: the stick's first partition");
    char *mke2fs[] = {"/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", "ROOTSTOCK", "/dev/sda2", NULL};
    char *e2fsck[] = {"/sbin/e2fsck", "-f", "-p", "/dev/sda2", NULL};
    verdict(run(mke2fs) == 0, "mke2fs on the stick's second partition");
    verdict(run(e2fsck) == 0, "e2fsck on it");
    verdict(mount("/dev/sda2", "/mnt/ext4", "ext4", 0, "") == 0, "ext4");
    mkdir("/mnt/ext4/lower", 0755); mkdir("/mnt/ext4/upper", 0755); mkdir("/mnt/ext4/work", 0755);
    verdict(mount("overlay", "/mnt/root", "overlay", 0,
        "lowerdir=/mnt/ext4/lower,upperdir=/mnt/ext4/upper,workdir=/mnt/ext4/work,index=on,nfs_export=on,xino=on") == 0, "overlay with index, nfs_export and xino");
    verdict(exists("/dev/loop-control"), "loop");
    umount("/mnt/root");
    umount("/mnt/ext4");
}

/* A flush of a small part of an SSD1306: enough to be recognised in QEMU's trace. */
static void display(void) {
    static const unsigned char on[] = {0x00, 0xae, 0xd5, 0x80, 0x8d, 0x14, 0xaf}, data[] = {0x40, 0xff, 0x81, 0x81, 0xff};
    int fd = open("/dev/i2c-1", O_RDWR);
    verdict(fd >= 0 && ioctl(fd, I2C_SLAVE, 0x3c) == 0 && write(fd, on, sizeof on) == sizeof on &&
        write(fd, data, sizeof data) == sizeof data, "i2c-1: written to the display at 0x3c");
}

/* Prints each change of the button's line for a while, so that a test can press it. */
static void button(void) {
    struct gpio_v2_line_request request = {.offsets = {BUTTON_LINE}, .num_lines = 1, .config = {.flags = GPIO_V2_LINE_FLAG_INPUT}};
    struct gpio_v2_line_values values = {.mask = 1};
    int chip = open("/dev/gpiochip0", O_RDWR), last = -1;
    int good = chip >= 0 && ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request) == 0;
    verdict(good, "gpiochip0: the button's line");
    for (int i = 0; good && i < 300; i++, usleep(10000)) {
        ioctl(request.fd, GPIO_V2_LINE_GET_VALUES_IOCTL, &values);
        if ((int)(values.bits & 1) == last) continue;
        last = values.bits & 1;
        printf("probe: button line %d is %d (%.2f s)\n", BUTTON_LINE, last, uptime());
        fflush(stdout);
    }
}

int main(void) {
    struct utsname system;
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    setvbuf(stdout, NULL, _IOLBF, 0);
    uname(&system);
    snprintf(base, sizeof base, "/lib/modules/%s", system.release);
    printf("probe: first instruction at %.2f s, Linux %s\n", uptime(), system.release);
    read_lines("modules.dep", dep_lines, MODULES_MAX);
    read_lines("modules.alias", alias_lines, ALIASES_MAX);

    load_named();
    /* New devices bring new modaliases (bus, controller, disk), so walk until all is there. */
    int pi = exists("/proc/device-tree/soc/i2c@7e804000"), card = 0, stick = 0, wired = 0;
    const char *card_path = pi ? "/dev/mmcblk0p1" : "/dev/vda1";
    for (int i = 0; i < 150 && !(card && stick && wired); i++, usleep(200000)) {
        walk("/sys/devices", 0);
        if (!card && (card = exists(card_path))) verdict(1, card_path);
        if (!stick && (stick = exists("/dev/sda2"))) verdict(1, "/dev/sda2");
        if (!wired && (wired = exists("/sys/class/net/eth0") || exists("/sys/class/net/usb0"))) verdict(1, "wired network interface");
    }
    printf("probe: %d modules loaded, %d failed\n", loaded, failed_loads);
    list("/sys/block"); list("/sys/class/net"); list("/sys/class/watchdog"); list("/sys/class/hwmon"); list("/dev");
    verdict(card && stick && wired, "card, stick and network");
    file_systems(card_path);
    verdict(exists("/dev/watchdog"), "watchdog");
    char byte;
    verdict(getrandom(&byte, 1, GRND_NONBLOCK) == 1, "getrandom does not block");
    if (pi) { display(); button(); }
    else verdict(exists("/dev/hvc0"), "/dev/hvc0");
    sync();
    printf("probe: done at %.2f s\n", uptime());
    reboot(RB_POWER_OFF);
    for (;;) pause();
}
