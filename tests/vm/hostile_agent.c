/* An agent that is none: the first process of a guest that has fallen into hostile hands. What it does is in
 * /mode of the initramfs. It puts the modules in as the real one does, opens the agent's port, and then lies.
 *
 * Frames: length u32, kind u32, stream u32, payload; little-endian, as in hull-plan/src/frame.rs.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HELLO, START, REQUEST, EXEC, EVENT, DATA, END, CREDIT, NAME, DONE };
enum { STARTED = 102, EXITED = 104, EXEC_EXITED = 107, LINKS_CHANGED = 111 };

static int port;

static void put_modules(void) {
  struct dirent **names;
  int count = scandir("/modules", &names, NULL, alphasort);
  for (int i = 0; i < count; i++) {
    char path[512];
    snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
    int fd = open(path, O_RDONLY);
    if (names[i]->d_name[0] != '.' && fd >= 0) syscall(SYS_finit_module, fd, "", 0);
    close(fd);
  }
}

static int open_port(void) {
  for (;;) {
    struct dirent **names;
    int count = scandir("/sys/class/virtio-ports", &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
      if (names[i]->d_name[0] == '.') continue;
      char path[512];
      snprintf(path, sizeof path, "/dev/%s", names[i]->d_name);
      int fd = open(path, O_RDWR);
      if (fd >= 0) return fd;
    }
    usleep(5000);
  }
}

static void all(const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t written = write(port, at, length);
    if (written <= 0) return;
    at += written, length -= written;
  }
}

static void frame(uint32_t kind, uint32_t stream, const void *payload, uint32_t length) {
  uint32_t header[3] = {length, kind, stream};
  char whole[4096];
  memcpy(whole, header, 12);
  memcpy(whole + 12, payload, length);
  all(whole, 12 + length);
}

static void event(uint32_t tag, const void *fields, uint32_t length) {
  uint32_t header[2] = {tag, length};
  char whole[2048];
  memcpy(whole, header, 8);
  memcpy(whole + 8, fields, length);
  frame(EVENT, 0, whole, 8 + length);
}

static void hello_and_started(void) {
  uint32_t version = 1;
  char buffer[65536];
  frame(HELLO, 0, &version, 4);
  if (read(port, buffer, sizeof buffer) <= 0) return;
  struct { uint32_t pid; int64_t at; } __attribute__((packed)) started = {1, 1};
  event(STARTED, &started, sizeof started);
}

/* Whole megabytes of small frames at a time. */
static void flood(uint32_t kind, uint32_t stream, const char *payload, uint32_t length) {
  static char bytes[1 << 20];
  uint32_t header[3] = {length, kind, stream}, at = 0;
  while (at + 12 + length <= sizeof bytes) {
    memcpy(bytes + at, header, 12);
    memcpy(bytes + at + 12, payload, length);
    at += 12 + length;
  }
  for (;;) all(bytes, at);
}

/* Every disk, over and over: layers are not to be written, the own one only as far as it goes. */
static void fill_disks(void) {
  static char junk[1 << 20];
  memset(junk, 0xa5, sizeof junk);
  for (char name[] = "/dev/vda"; name[7] <= 'h'; name[7]++) {
    int fd = open(name, O_RDWR);
    if (fd < 0) continue;
    while (write(fd, junk, sizeof junk) > 0) {}
    fsync(fd);
  }
}

int main(void) {
  char mode[32] = "";
  mkdir("/proc", 0755);
  mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
  mount("proc", "/proc", "proc", 0, NULL);
  mount("sysfs", "/sys", "sysfs", 0, NULL);
  int fd = open("/mode", O_RDONLY);
  if (fd < 0 || read(fd, mode, sizeof mode - 1) < 0) return 1;
  put_modules();
  port = open_port();

  if (!strcmp(mode, "silent")) {
  } else if (!strcmp(mode, "claims")) {
    uint32_t header[3] = {0xffffffff, DATA, 1};
    all(header, sizeof header);
  } else if (!strcmp(mode, "junk")) {
    static char junk[1 << 20];
    for (size_t i = 0; i < sizeof junk; i++) junk[i] = (char)(i * 2654435761u >> 13);
    for (;;) all(junk, sizeof junk);
  } else if (!strcmp(mode, "bytes")) {
    /* Single bytes of output, and nothing is read: each would be answered. */
    hello_and_started();
    flood(DATA, 1, "x", 1);
  } else if (!strcmp(mode, "credit")) {
    hello_and_started();
    flood(CREDIT, 0, "\xff\xff\xff\xff", 4);
  } else if (!strcmp(mode, "events")) {
    /* Ends of processes that are not there, answers that nobody asked for. */
    hello_and_started();
    struct { uint32_t number, length; char text[100]; } links = {1, 100, ""};
    memset(links.text, 'w', sizeof links.text);
    links.text[99] = 0;
    for (int i = 0; i < 200000; i++) event(LINKS_CHANGED, &links, sizeof links);
    char exited[32 + 4 + 4 + 8] = "";
    for (;;) event(EXEC_EXITED, exited, sizeof exited);
  } else if (!strcmp(mode, "done")) {
    hello_and_started();
    frame(DONE, 0, "", 0);
  } else if (!strcmp(mode, "names")) {
    hello_and_started();
    flood(NAME, 0, "\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05plain\0\0\x01\0\x01", 23);
  } else if (!strcmp(mode, "disks")) {
    hello_and_started();
    fill_disks();
    frame(DATA, 1, "filled\n", 7);
  } else if (!strcmp(mode, "forks")) {
    hello_and_started();
    for (;;) {
      char *memory;
      if (fork() == 0 && (memory = malloc(1 << 20))) memset(memory, 1, 1 << 20);
    }
  }
  for (;;) pause();
}
