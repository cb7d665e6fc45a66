/*
 * A link between two network namespaces of Linux: a TUN device in each, and this process between them, which holds every packet
 * for a fixed time, lets so many bits a second through, and loses some. For kernels without tc-netem.
 *
 *     link NAMESPACE_A NAMESPACE_B DELAY_US LOSS RATE_BIT_S QUEUE_BYTES FLOWS
 *
 * Both directions are alike and independent. With FLOWS 1, all packets share the rate and the queue; with 2, UDP and what is not UDP
 * have them each for itself: there is one pair of addresses, so a flow is a protocol between two hosts. The device is called `long` in both namespaces. Prints "up" when they are there, and
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

enum { MTU = 1500, QUEUE = 1 << 14, BATCH = 64, MOST_FLOWS = 2, PROTOCOL_AT = 9, UDP = 17 };
static const uint64_t SECOND = 1000000000;

/* A packet under way. */
struct packet {
  uint64_t due; /* nanoseconds */
  ssize_t length;
  unsigned char bytes[MTU];
};

/* What shares one rate, in one direction. */
struct flow {
  struct packet *packets; /* a ring of QUEUE */
  unsigned head, tail;    /* head == tail: empty; they count on and on */
  uint64_t free_at;       /* when the last bit of what was taken is on the wire */
};

struct direction {
  int from, to;
  struct flow flows[MOST_FLOWS];
};

static int flows;
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

static struct flow *flow_of(struct direction *way, const unsigned char *packet) {
  /* The fixed part of an IPv4 header is longer than where its protocol is; the device takes in nothing shorter. */
  return &way->flows[flows > 1 && packet[PROTOCOL_AT] == UDP];
}

/* Takes in what there is, as far as there is room for it. */
static void take(struct direction *way) {
  for (int count = 0; count < BATCH; count++) {
    unsigned char bytes[MTU];
    ssize_t length = read(way->from, bytes, MTU);
    if (length <= 0) return;
    struct flow *flow = flow_of(way, bytes);
    uint64_t time = now();
    if (flow->free_at < time) flow->free_at = time;
    /* What waits for the wire, in bytes: a full queue drops what comes. */
    if (flow->tail - flow->head == QUEUE) continue;
    if ((double)(flow->free_at - time) * rate / 8 / SECOND > queue_bytes) continue;
    flow->free_at += (uint64_t)((double)length * 8 * SECOND / rate);
    if (drand48() < loss) continue;
    struct packet *packet = &flow->packets[flow->tail++ % QUEUE];
    memcpy(packet->bytes, bytes, length);
    packet->length = length;
    packet->due = flow->free_at + delay;
  }
}

/* Hands over what has arrived of a flow, and returns when the next packet does. */
static uint64_t deliver(struct flow *flow, int to) {
  for (; flow->head != flow->tail; flow->head++) {
    struct packet *packet = &flow->packets[flow->head % QUEUE];
    if (packet->due > now()) return packet->due;
    /* A packet that the device does not take is lost. */
    if (write(to, packet->bytes, packet->length) < 0) continue;
  }
  return UINT64_MAX;
}

int main(int count, char **arguments) {
  if (count != 8 || (flows = atoi(arguments[7])) < 1 || flows > MOST_FLOWS) {
    fputs("usage: link NAMESPACE_A NAMESPACE_B DELAY_US LOSS RATE_BIT_S QUEUE_BYTES FLOWS\n", stderr);
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
    for (int j = 0; j < flows; j++) {
      ways[i].flows[j].packets = calloc(QUEUE, sizeof(struct packet));
      if (ways[i].flows[j].packets == NULL) die("calloc");
    }
  }
  puts("up");
  fflush(stdout);
  for (;;) {
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
      take(&ways[i]);
      for (int j = 0; j < flows; j++) {
        uint64_t due = deliver(&ways[i].flows[j], ways[i].to);
        if (due < next) next = due;
      }
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
