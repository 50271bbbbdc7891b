/* What a file system does, said in lines that can be compared.
 *
 *   files_probe fsx DIR SEED OPERATIONS   random reads, writes, maps, truncations against a copy in memory
 *   files_probe posix DIR                 calls and their errors
 *   files_probe append FILE NAME COUNT    read the number in FILE and append the next one, under a lock
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SIZE_MAX_BYTES (1 << 20)

static uint64_t state;
static uint32_t below(uint32_t bound) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return (uint32_t)(state >> 20) % bound;
}

static void die(const char *what) {
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

static unsigned char model[SIZE_MAX_BYTES], buffer[SIZE_MAX_BYTES];

static void fsx(const char *dir, uint64_t seed, int operations) {
  char path[512], other[512];
  size_t size = 0;
  state = seed * 2654435761u + 1;
  snprintf(path, sizeof path, "%s/fsx", dir);
  snprintf(other, sizeof other, "%s/fsx.other", dir);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (fd < 0) die("open");
  for (int i = 0; i < operations; i++) {
    uint32_t at = below(SIZE_MAX_BYTES - 1), length = 1 + below(65536);
    if (at + length > SIZE_MAX_BYTES) length = SIZE_MAX_BYTES - at;
    switch (below(10)) {
      case 0: case 1: case 2:
        for (uint32_t j = 0; j < length; j++) buffer[j] = (unsigned char)below(256);
        if (pwrite(fd, buffer, length, at) != (ssize_t)length) die("write");
        memcpy(model + at, buffer, length);
        if (at + length > size) size = at + length;
        break;
      case 3: case 4: case 5: {
        ssize_t expected = at >= size ? 0 : size - at < length ? (ssize_t)(size - at) : (ssize_t)length;
        if (pread(fd, buffer, length, at) != expected) die("read: another length");
        if (memcmp(buffer, model + at, expected)) {
          printf("operation %d: other bytes at %u\n", i, at);
          exit(1);
        }
        break;
      }
      case 6: {
        size_t wanted = below(SIZE_MAX_BYTES);
        if (ftruncate(fd, wanted)) die("truncate");
        if (wanted < size) memset(model + wanted, 0, size - wanted);
        size = wanted;
        break;
      }
      case 7:
        if (size > 4096) {
          unsigned char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
          if (map == MAP_FAILED) die("mmap");
          if (at >= size) at %= size;
          if (at + length > size) length = size - at;
          for (uint32_t j = 0; j < length; j++) map[at + j] = model[at + j] = (unsigned char)below(256);
          if (msync(map, size, MS_SYNC)) die("msync");
          munmap(map, size);
        }
        break;
      case 8:
        if (below(2) ? fsync(fd) : fdatasync(fd)) die("fsync");
        break;
      default:
        if (rename(path, other) || rename(other, path)) die("rename");
        close(fd);
        fd = open(path, O_RDWR);
        if (fd < 0) die("open again");
    }
    struct stat facts;
    if (fstat(fd, &facts) || (size_t)facts.st_size != size) {
      printf("operation %d: size %lld instead of %zu\n", i, (long long)facts.st_size, size);
      exit(1);
    }
  }
  uint64_t sum = 14695981039346656037u;
  if (pread(fd, buffer, size, 0) != (ssize_t)size) die("read at the end");
  for (size_t i = 0; i < size; i++) sum = (sum ^ buffer[i]) * 1099511628211u;
  printf("fsx %llu: %d operations, %zu bytes, %016llx\n", (unsigned long long)seed, operations, size, (unsigned long long)sum);
  unlink(path);
}

#define SAY(call) (errno = 0, printf("%-60s %s\n", #call, (long)(call) < 0 ? strerrorname_np(errno) : "ok"))

static void posix(const char *dir) {
  if (chdir(dir)) die("chdir");
  umask(022);
  struct stat facts;
  char text[64];
  int fd, second;
  SAY(mkdir("d", 0755));
  SAY(mkdir("d", 0755));
  SAY(fd = open("d/f", O_RDWR | O_CREAT | O_EXCL, 0640));
  SAY(open("d/f", O_RDWR | O_CREAT | O_EXCL, 0640));
  SAY(open("d", O_WRONLY));
  SAY(open("d/f/x", O_RDONLY));
  SAY(open("nothing", O_RDONLY));
  SAY(open("d/f", O_RDONLY | O_DIRECTORY));
  SAY(write(fd, "0123456789", 10));
  SAY(lseek(fd, -20, SEEK_SET));
  SAY(ftruncate(fd, 5));
  SAY(fstat(fd, &facts));
  printf("size %lld mode %o links %lu\n", (long long)facts.st_size, facts.st_mode, (unsigned long)facts.st_nlink);
  SAY(link("d/f", "d/g"));
  SAY(link("d", "e"));
  SAY(symlink("f", "d/s"));
  SAY(readlink("d/s", text, sizeof text));
  SAY(open("d/s", O_RDONLY | O_NOFOLLOW));
  SAY(symlink("loop", "loop"));
  SAY(open("loop", O_RDONLY));
  SAY(rmdir("d"));
  SAY(unlink("d"));
  SAY(rename("d/f", "d/h"));
  SAY(rename("d", "d/sub"));
  SAY(mkdir("empty", 0700));
  SAY(rename("d", "empty"));
  SAY(rename("empty", "d"));
  SAY(rename("d/h", "d"));
  SAY(unlink("d/h"));
  SAY(pread(fd, text, 5, 0));
  SAY(fstat(fd, &facts));
  printf("links %lu\n", (unsigned long)facts.st_nlink);
  SAY(unlink("d/g"));
  SAY(pread(fd, text, 5, 0));
  SAY(fstat(fd, &facts));
  printf("links %lu\n", (unsigned long)facts.st_nlink);
  close(fd);
  SAY(fd = open("a", O_RDWR | O_CREAT | O_APPEND, 0600));
  SAY(second = open("a", O_WRONLY | O_APPEND));
  SAY(write(fd, "one", 3));
  SAY(write(second, "two", 3));
  SAY(write(fd, "three", 5));
  memset(text, 0, sizeof text);
  SAY(pread(fd, text, 20, 0));
  printf("appended %s\n", text);
  SAY(flock(fd, LOCK_EX | LOCK_NB));
  SAY(flock(second, LOCK_EX | LOCK_NB));
  SAY(flock(fd, LOCK_UN));
  SAY(flock(second, LOCK_SH | LOCK_NB));
  SAY(flock(fd, LOCK_SH | LOCK_NB));
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 4};
  SAY(fcntl(fd, F_SETLK, &lock));
  SAY(chmod("a", 04755));
  SAY(stat("a", &facts));
  printf("mode %o\n", facts.st_mode);
  SAY(chown("a", 7, 8));
  SAY(stat("a", &facts));
  printf("mode %o owner %u:%u\n", facts.st_mode, facts.st_uid, facts.st_gid);
  struct timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
  SAY(utimensat(AT_FDCWD, "a", times, 0));
  SAY(stat("a", &facts));
  printf("times %lld.%09ld %lld.%09ld\n", (long long)facts.st_atim.tv_sec, facts.st_atim.tv_nsec,
         (long long)facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec);
  SAY(setxattr("a", "user.one", "value", 5, 0));
  SAY(getxattr("a", "user.one", text, sizeof text));
  SAY(getxattr("a", "user.two", text, sizeof text));
  SAY(setxattr("a", "user.one", "other", 5, XATTR_CREATE));
  SAY(removexattr("a", "user.one"));
  SAY(mkfifo("p", 0600));
  SAY(mknod("n", S_IFSOCK | 0600, 0));
  SAY(open("p", O_WRONLY | O_NONBLOCK));
  SAY(fallocate(fd, 0, 0, 65536));
  SAY(fstat(fd, &facts));
  printf("size %lld\n", (long long)facts.st_size);
  SAY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192));
  SAY(syncfs(fd));
  SAY(renameat2(AT_FDCWD, "a", AT_FDCWD, "p", RENAME_NOREPLACE));
  SAY(renameat2(AT_FDCWD, "a", AT_FDCWD, "p", RENAME_EXCHANGE));
  SAY(mkdir("many", 0755));
  for (int i = 0; i < 500; i++) {
    snprintf(text, sizeof text, "many/%d", i);
    close(open(text, O_CREAT | O_WRONLY, 0600));
  }
  int count = 0;
  DIR *open_dir = opendir("many");
  for (struct dirent *entry; (entry = readdir(open_dir));) {
    if (entry->d_name[0] == '.') continue;
    count++;
    snprintf(text, sizeof text, "many/%.40s", entry->d_name);
    unlink(text);
  }
  closedir(open_dir);
  printf("entries %d\n", count);
  SAY(rmdir("many"));
  char name[300];
  memset(name, 'n', 255), name[255] = 0;
  SAY(mkdir(name, 0755));
  SAY(rmdir(name));
  memset(name, 'n', 256), name[256] = 0;
  SAY(mkdir(name, 0755));
}

/* Each line is one more than the one before it, whoever wrote that. */
static void append(const char *path, const char *name, int count) {
  for (int i = 0; i < count; i++) {
    int fd = open(path, O_RDWR | O_CREAT, 0666);
    if (fd < 0) die("open");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    /* Servers of shared directories do not wait for a lock, whoever asks does. */
    while (fcntl(fd, F_SETLK, &lock)) {
      if (errno != EAGAIN && errno != EACCES) die("lock");
      usleep(500);
    }
    char text[64] = "";
    off_t end = lseek(fd, 0, SEEK_END);
    long last = 0;
    if (end > 0) {
      if (pread(fd, text, 8, end - 16) != 8) die("read");
      last = strtol(text, NULL, 10);
    }
    snprintf(text, sizeof text, "%08ld %-6.6s\n", last + 1, name);
    if (pwrite(fd, text, 16, end) != 16) die("write");
    close(fd);
  }
}

int main(int count, char **words) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (count == 5 && !strcmp(words[1], "fsx")) fsx(words[2], strtoull(words[3], NULL, 10), atoi(words[4]));
  else if (count == 3 && !strcmp(words[1], "posix")) posix(words[2]);
  else if (count == 5 && !strcmp(words[1], "append")) append(words[2], words[3], atoi(words[4]));
  else return 2;
  return 0;
}
