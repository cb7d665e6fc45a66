/*
 * A link between two network namespaces of Linux: a TUN device in each, and this process between them, which holds every packet
 * for a fixed time, lets so many bits a second through, and loses some. For kernels without tc-netem.
 *
 *     link NAMESPACE_A NAMESPACE_B DELAY_US LOSS RATE_BIT_S QUEUE_BYTES
 *
 * Both directions are alike and independent. The device is called `long` in both namespaces. Prints "up" when they are there, and
 * ends with its standard input. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { MTU = 1500, QUEUE = 1 << 14, BATCH = 64 };
static const uint64_t SECOND = 1000000000;

/* A packet under way. */
struct packet {
  uint64_t due; /* nanoseconds */
  ssize_t length;
  unsigned char bytes[MTU];
};

struct direction {
  int from, to;
  struct packet *packets; /* a ring of QUEUE */
  unsigned head, tail;    /* head == tail: empty; they count on and on */
  uint64_t free_at;       /* when the last bit of what was taken is on the wire */
};

static uint64_t delay, queue_bytes;
static double loss, rate;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static int open_device(const char *namespace) {
  char path[256];
  snprintf(path, sizeof path, "/var/run/netns/%s", namespace);
  int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), there = open(path, O_RDONLY | O_CLOEXEC);
  if (home < 0 || there < 0 || setns(there, CLONE_NEWNET) != 0) die(path);
  int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (device < 0) die("/dev/net/tun");
  struct ifreq request = {.ifr_name = "long", .ifr_flags = IFF_TUN | IFF_NO_PI};
  if (ioctl(device, TUNSETIFF, &request) != 0) die("TUNSETIFF");
  if (setns(home, CLONE_NEWNET) != 0) die("setns");
  close(home);
  close(there);
  return device;
}

/* Takes in what there is, as far as there is room for it. */
static void take(struct direction *way) {
  for (int count = 0; count < BATCH; count++) {
    unsigned char scratch[MTU];
    int full = way->tail - way->head == QUEUE;
    struct packet *packet = &way->packets[way->tail % QUEUE];
    ssize_t length = read(way->from, full ? scratch : packet->bytes, MTU);
    if (length <= 0) return;
    uint64_t time = now();
    if (way->free_at < time) way->free_at = time;
    /* What waits for the wire, in bytes: a full queue drops what comes. */
    if (full || (double)(way->free_at - time) * rate / 8 / SECOND > queue_bytes) continue;
    way->free_at += (uint64_t)((double)length * 8 * SECOND / rate);
    if (drand48() < loss) continue;
    packet->length = length;
    packet->due = way->free_at + delay;
    way->tail++;
  }
}

/* Hands over what has arrived, and returns when the next packet does. */
static uint64_t deliver(struct direction *way) {
  for (; way->head != way->tail; way->head++) {
    struct packet *packet = &way->packets[way->head % QUEUE];
    if (packet->due > now()) return packet->due;
    /* A packet that the device does not take is lost. */
    if (write(way->to, packet->bytes, packet->length) < 0) continue;
  }
  return UINT64_MAX;
}

int main(int count, char **arguments) {
  if (count != 7) {
    fputs("usage: link NAMESPACE_A NAMESPACE_B DELAY_US LOSS RATE_BIT_S QUEUE_BYTES\n", stderr);
    return 2;
  }
  delay = (uint64_t)(atof(arguments[3]) * 1000);
  loss = atof(arguments[4]);
  rate = atof(arguments[5]);
  queue_bytes = (uint64_t)atof(arguments[6]);
  srand48(1);
  /* Timers are put off by 50 microseconds otherwise. */
  prctl(PR_SET_TIMERSLACK, 1);
  int a = open_device(arguments[1]), b = open_device(arguments[2]);
  struct direction ways[2] = {{.from = a, .to = b}, {.from = b, .to = a}};
  for (int i = 0; i < 2; i++) {
    ways[i].packets = calloc(QUEUE, sizeof(struct packet));
    if (ways[i].packets == NULL) die("calloc");
  }
  puts("up");
  fflush(stdout);
  for (;;) {
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
      take(&ways[i]);
      uint64_t due = deliver(&ways[i]);
      if (due < next) next = due;
    }
    uint64_t time = now(), wait = next > time ? next - time : 0;
    struct timespec timeout = {.tv_sec = (time_t)(wait / SECOND), .tv_nsec = (long)(wait % SECOND)};
    struct pollfd files[3] = {{.fd = a, .events = POLLIN}, {.fd = b, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    if (ppoll(files, 3, next == UINT64_MAX ? NULL : &timeout, NULL) < 0) die("ppoll");
    if (files[2].revents != 0) {
      char byte;
      if (read(0, &byte, 1) <= 0) return 0;
    }
  }
}
