/*
 * Sends UDP datagrams with arbitrary source addresses through a raw socket. Needs Linux and
 * CAP_NET_RAW.
 *
 *     raw-udp
 *
 * Each line of standard input is one datagram: SOURCE PORT DESTINATION PORT PAYLOAD. Both addresses
 * have the same family; a link-local IPv6 destination has a zone (%NAME). PAYLOAD is in hex, or "-"
 * if empty. For each line the program prints "sent" or the error. It ends at the end of standard
 * input.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
  MAX_PAYLOAD_BYTES = 65507,
  PROTOCOL_UDP = 17,
  UDP_HEADER = 8,
  IP4_HEADER = 20,
  IP6_HEADER = 40,
  MAX_LINE_BYTES = 2 * MAX_PAYLOAD_BYTES + 512
};

static unsigned char packet[IP6_HEADER + UDP_HEADER + MAX_PAYLOAD_BYTES];
static char line[MAX_LINE_BYTES], payload[MAX_LINE_BYTES];

static uint32_t sum(uint32_t total, const unsigned char *bytes, size_t length) {
  for (size_t at = 0; at < length; at++) total += at % 2 == 0 ? bytes[at] << 8 : bytes[at];
  return total;
}

/* Folds a sum into the Internet checksum (RFC 1071). */
static uint16_t folded(uint32_t total) {
  while (total >> 16 != 0) total = (total & 0xffff) + (total >> 16);
  return (uint16_t)~total;
}

static void put16(unsigned char *at, uint16_t value) {
  at[0] = value >> 8;
  at[1] = value & 0xff;
}

/* Writes a UDP header; the `length` bytes of payload after it are already in place. */
static void udp_header(unsigned char *udp, uint16_t from, uint16_t to, size_t length, uint32_t addresses) {
  put16(udp, from);
  put16(udp + 2, to);
  put16(udp + 4, UDP_HEADER + length);
  put16(udp + 6, 0);
  uint16_t check = folded(sum(addresses + PROTOCOL_UDP + UDP_HEADER + length, udp, UDP_HEADER + length));
  put16(udp + 6, check == 0 ? 0xffff : check);
}

static int send4(const char *source, uint16_t from, const char *target, uint16_t to, size_t length) {
  static int fd = -1;
  if (fd < 0) {
    int yes = 1;
    fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &yes, sizeof yes) < 0) return -1;
  }
  struct sockaddr_in address = {.sin_family = AF_INET};
  memset(packet, 0, IP4_HEADER);
  packet[0] = 0x45;
  put16(packet + 2, IP4_HEADER + UDP_HEADER + length);
  packet[8] = 64;
  packet[9] = PROTOCOL_UDP;
  if (inet_pton(AF_INET, source, packet + 12) != 1 || inet_pton(AF_INET, target, packet + 16) != 1) return -1;
  memcpy(&address.sin_addr, packet + 16, 4);
  udp_header(packet + IP4_HEADER, from, to, length, sum(0, packet + 12, 8));
  return sendto(fd, packet, IP4_HEADER + UDP_HEADER + length, 0, (struct sockaddr *)&address, sizeof address);
}

static int send6(const char *source, uint16_t from, char *target, uint16_t to, size_t length) {
  static int fd = -1;
  if (fd < 0 && (fd = socket(AF_INET6, SOCK_RAW, IPPROTO_RAW)) < 0) return -1;
  struct sockaddr_in6 address = {.sin6_family = AF_INET6};
  char *zone = strchr(target, '%');
  if (zone != NULL) {
    *zone = 0;
    address.sin6_scope_id = if_nametoindex(zone + 1);
  }
  memset(packet, 0, IP6_HEADER);
  packet[0] = 0x60;
  put16(packet + 4, UDP_HEADER + length);
  packet[6] = PROTOCOL_UDP;
  packet[7] = 64;
  if (inet_pton(AF_INET6, source, packet + 8) != 1 || inet_pton(AF_INET6, target, packet + 24) != 1) return -1;
  memcpy(&address.sin6_addr, packet + 24, 16);
  udp_header(packet + IP6_HEADER, from, to, length, sum(0, packet + 8, 32));
  return sendto(fd, packet, IP6_HEADER + UDP_HEADER + length, 0, (struct sockaddr *)&address, sizeof address);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  while (fgets(line, sizeof line, stdin) != NULL) {
    char source[64], target[96];
    unsigned from, to;
    if (sscanf(line, "%63s %u %95s %u %s", source, &from, target, &to, payload) != 5) {
      puts("not a datagram");
      continue;
    }
    int six = strchr(target, ':') != NULL;
    size_t length = strcmp(payload, "-") == 0 ? 0 : strlen(payload) / 2;
    unsigned char *bytes = packet + (six ? IP6_HEADER : IP4_HEADER) + UDP_HEADER;
    for (size_t at = 0; at < length; at++) {
      unsigned byte;
      sscanf(payload + 2 * at, "%2x", &byte);
      bytes[at] = byte;
    }
    errno = EINVAL;
    int sent = six ? send6(source, from, target, to, length) : send4(source, from, target, to, length);
    puts(sent < 0 ? strerror(errno) : "sent");
  }
  return 0;
}
