// Ways to take frames from AF_PACKET and to send them, to be compared with each other: a forwarder
// between two interfaces, and a generator. bench/packet-io.ts builds and runs it.
//
//   forward RX TX INTERFACE INTERFACE SECONDS
//     RX: v2 (2 KiB slots, larger frames again through recv) | v2big (128 KiB slots) | v3 | recvmmsg
//     TX: ring (2 KiB slots, copied whole; larger frames by sendmmsg) | ringpage (the same, the
//         kernel refers to the ring's pages) | ringbig (128 KiB slots) | sendmmsg; each also with
//         "-bypass" behind it (PACKET_QDISC_BYPASS)
//   generate INTERFACE DESTINATION_MAC SECONDS
//     UDP frames of 60 bytes from 10.0.0.1 to 10.0.0.9, as fast as they go
//
// It prints one line of JSON. It is a measuring instrument: errors end it.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include <string>
#include <vector>

namespace {

constexpr size_t kBatch = 64;
constexpr size_t kVnet = 10;
constexpr size_t kFrameMax = 65536 + 64;
constexpr size_t kRingBytes = 16 << 20;
constexpr size_t kBlockV3 = 1 << 18;

struct Vnet {
  uint8_t flags, gso_type;
  uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
static_assert(sizeof(Vnet) == kVnet, "no num_buffers");

// A frame with its 10-byte header right before it.
struct Frame {
  uint8_t* at;
  size_t bytes;
};

[[noreturn]] void Die(const char* what) {
  perror(what);
  exit(1);
}

// TX kinds that end in "-bypass" go around the interface's queueing discipline.
bool bypass = false;

double Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

void Set(int fd, int level, int option, int value, const char* name) {
  if (setsockopt(fd, level, option, &value, sizeof value) != 0) Die(name);
}

int Socket(const char* interface, int version) {
  const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
  if (fd < 0) Die("socket");
  Set(fd, SOL_PACKET, PACKET_VERSION, version, "PACKET_VERSION");
  Set(fd, SOL_PACKET, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR");
  if (bypass) Set(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1, "PACKET_QDISC_BYPASS");
  Set(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING");
  Set(fd, SOL_SOCKET, SO_SNDBUFFORCE, 64 << 20, "SO_SNDBUFFORCE");
  Set(fd, SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20, "SO_RCVBUFFORCE");
  if (if_nametoindex(interface) == 0) Die(interface);
  return fd;
}

void Bind(int fd, const char* interface, int protocol) {
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(static_cast<uint16_t>(protocol));
  address.sll_ifindex = static_cast<int>(if_nametoindex(interface));
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Die("bind");
}

uint8_t* Ring(int fd, int option, size_t slot_bytes, size_t bytes) {
  tpacket_req ring{};
  ring.tp_block_size = slot_bytes < 65536 ? 65536 : static_cast<unsigned>(slot_bytes);
  ring.tp_block_nr = static_cast<unsigned>(bytes / ring.tp_block_size);
  ring.tp_frame_size = static_cast<unsigned>(slot_bytes);
  ring.tp_frame_nr = static_cast<unsigned>(bytes / slot_bytes);
  if (setsockopt(fd, SOL_PACKET, option, &ring, sizeof ring) != 0) Die("ring");
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (at == MAP_FAILED) Die("mmap");
  return static_cast<uint8_t*>(at);
}

class Receiver {
 public:
  Receiver(const std::string& kind, const char* interface) : kind_(kind) {
    fd = Socket(interface, kind == "v3" ? TPACKET_V3 : TPACKET_V2);
    big_.resize(kBatch * (kFrameMax + 64));
    if (kind == "v2" || kind == "v2big") {
      slot_bytes_ = kind == "v2" ? 2048 : 131072;
      Set(fd, SOL_PACKET, PACKET_RESERVE, 2, "PACKET_RESERVE");
      Set(fd, SOL_PACKET, PACKET_COPY_THRESH, 1, "PACKET_COPY_THRESH");
      ring_ = Ring(fd, PACKET_RX_RING, slot_bytes_, kRingBytes);
      slots_ = kRingBytes / slot_bytes_;
    } else if (kind == "v3") {
      Set(fd, SOL_PACKET, PACKET_RESERVE, 2, "PACKET_RESERVE");
      tpacket_req3 ring{};
      ring.tp_block_size = kBlockV3;
      ring.tp_block_nr = kRingBytes / kBlockV3;
      ring.tp_frame_size = 2048;
      ring.tp_frame_nr = kRingBytes / 2048;
      ring.tp_retire_blk_tov = 1;
      if (setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring) != 0) Die("v3 ring");
      void* at = mmap(nullptr, kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
      if (at == MAP_FAILED) Die("mmap");
      ring_ = static_cast<uint8_t*>(at);
      slots_ = kRingBytes / kBlockV3;
    }
    Bind(fd, interface, ETH_P_ALL);
  }

  // Gives back what the last call gave, then up to kBatch frames.
  size_t Take(Frame* out) {
    if (kind_ == "recvmmsg") return TakeMessages(out);
    if (kind_ == "v3") return TakeBlock(out);
    for (; released_ != position_; released_ += 1) Status(released_, TP_STATUS_KERNEL);
    size_t count = 0;
    size_t big = 0;
    while (count < kBatch) {
      auto* slot = Slot(position_);
      const uint32_t status = __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
      if ((status & TP_STATUS_USER) == 0) break;
      position_ += 1;
      if ((status & TP_STATUS_COPY) != 0) {
        uint8_t* at = big_.data() + big;
        const ssize_t bytes = recv(fd, at, kVnet + kFrameMax, MSG_DONTWAIT);
        if (bytes <= static_cast<ssize_t>(kVnet)) continue;
        out[count] = {at + kVnet, static_cast<size_t>(bytes) - kVnet};
        big += (static_cast<size_t>(bytes) + 63) / 64 * 64;
      } else {
        out[count] = {reinterpret_cast<uint8_t*>(slot) + slot->tp_mac, slot->tp_snaplen};
      }
      count += 1;
    }
    return count;
  }

  // A block of V3 is given back only when all of it has been sent.
  size_t TakeBlock(Frame* out) {
    size_t count = 0;
    while (count < kBatch) {
      if (left_ == 0) {
        if (holding_) {
          if (count > 0) break;
          __atomic_store_n(&Block()->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
          position_ += 1;
          holding_ = false;
        }
        if ((__atomic_load_n(&Block()->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) == 0) {
          break;
        }
        holding_ = true;
        left_ = Block()->hdr.bh1.num_pkts;
        next_ = reinterpret_cast<uint8_t*>(Block()) + Block()->hdr.bh1.offset_to_first_pkt;
        if (left_ == 0) continue;
      }
      auto* header = reinterpret_cast<tpacket3_hdr*>(next_);
      out[count] = {next_ + header->tp_mac, header->tp_snaplen};
      count += 1;
      next_ += header->tp_next_offset;
      left_ -= 1;
    }
    return count;
  }

  size_t TakeMessages(Frame* out) {
    mmsghdr messages[kBatch] = {};
    iovec parts[kBatch];
    for (size_t i = 0; i < kBatch; i += 1) {
      parts[i] = {big_.data() + i * (kFrameMax + 64), kVnet + kFrameMax};
      messages[i].msg_hdr.msg_iov = &parts[i];
      messages[i].msg_hdr.msg_iovlen = 1;
    }
    const int count = recvmmsg(fd, messages, kBatch, MSG_DONTWAIT, nullptr);
    for (int i = 0; i < count; i += 1) {
      out[i] = {static_cast<uint8_t*>(parts[i].iov_base) + kVnet, messages[i].msg_len - kVnet};
    }
    return count < 0 ? 0 : static_cast<size_t>(count);
  }

  int fd;

 private:
  tpacket2_hdr* Slot(size_t position) {
    return reinterpret_cast<tpacket2_hdr*>(ring_ + position % slots_ * slot_bytes_);
  }
  void Status(size_t position, uint32_t status) {
    __atomic_store_n(&Slot(position)->tp_status, status, __ATOMIC_RELEASE);
  }
  tpacket_block_desc* Block() {
    return reinterpret_cast<tpacket_block_desc*>(ring_ + position_ % slots_ * kBlockV3);
  }

  std::string kind_;
  std::vector<uint8_t> big_;
  uint8_t* ring_ = nullptr;
  size_t slot_bytes_ = 0;
  size_t slots_ = 0;
  size_t position_ = 0;
  size_t released_ = 0;
  bool holding_ = false;
  uint32_t left_ = 0;
  uint8_t* next_ = nullptr;
};

class Sender {
 public:
  Sender(const std::string& kind, const char* interface) : kind_(kind) {
    messages_ = Socket(interface, TPACKET_V2);
    Bind(messages_, interface, 0);
    if (kind == "sendmmsg") return;
    slot_bytes_ = kind == "ringbig" ? 131072 : 2048;
    slots_ = (kind == "ringbig" ? kRingBytes : kRingBytes / 8) / slot_bytes_;
    socket_ = Socket(interface, TPACKET_V2);
    ring_ = Ring(socket_, PACKET_TX_RING, slot_bytes_, slots_ * slot_bytes_);
    Bind(socket_, interface, 0);
  }

  size_t Send(const Frame* frames, size_t count) {
    size_t sent = 0;
    size_t i = 0;
    while (i < count) {
      size_t run = i;
      const bool by_ring = kind_ != "sendmmsg" && frames[i].bytes <= slot_bytes_ - 64;
      while (run < count && (kind_ != "sendmmsg" && frames[run].bytes <= slot_bytes_ - 64) == by_ring) {
        run += 1;
      }
      sent += by_ring ? SendRing(frames + i, run - i) : SendMessages(frames + i, run - i);
      i = run;
    }
    return sent;
  }

 private:
  size_t SendRing(const Frame* frames, size_t count) {
    size_t filled = 0;
    for (; filled < count; filled += 1) {
      auto* slot = reinterpret_cast<tpacket2_hdr*>(ring_ + position_ % slots_ * slot_bytes_);
      const uint32_t status = __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
      if (status != TP_STATUS_AVAILABLE) break;
      uint8_t* data = reinterpret_cast<uint8_t*>(slot) + TPACKET2_HDRLEN - sizeof(sockaddr_ll);
      memcpy(data, frames[filled].at - kVnet, kVnet + frames[filled].bytes);
      auto* vnet = reinterpret_cast<Vnet*>(data);
      if (vnet->gso_type == 0) {
        vnet->hdr_len = kind_ == "ringpage" ? 0 : static_cast<uint16_t>(frames[filled].bytes);
      }
      slot->tp_len = static_cast<uint32_t>(kVnet + frames[filled].bytes);
      __atomic_store_n(&slot->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
      position_ += 1;
    }
    // What the interface refuses stays in the ring and is tried again with the next frames.
    (void)send(socket_, nullptr, 0, MSG_DONTWAIT);
    return filled;
  }

  size_t SendMessages(const Frame* frames, size_t count) {
    mmsghdr messages[kBatch] = {};
    iovec parts[kBatch];
    for (size_t i = 0; i < count; i += 1) {
      parts[i] = {frames[i].at - kVnet, kVnet + frames[i].bytes};
      messages[i].msg_hdr.msg_iov = &parts[i];
      messages[i].msg_hdr.msg_iovlen = 1;
    }
    size_t next = 0;
    size_t sent = 0;
    while (next < count) {
      const int done = sendmmsg(messages_, messages + next, static_cast<unsigned>(count - next), MSG_DONTWAIT);
      if (done > 0) {
        next += static_cast<size_t>(done);
        sent += static_cast<size_t>(done);
      } else {
        next += 1;
      }
    }
    return sent;
  }

  std::string kind_;
  int messages_ = -1;
  int socket_ = -1;
  uint8_t* ring_ = nullptr;
  size_t slot_bytes_ = 0;
  size_t slots_ = 0;
  size_t position_ = 0;
};

int Forward(char** arguments) {
  std::string tx = arguments[1];
  const size_t suffix = tx.find("-bypass");
  bypass = suffix != std::string::npos;
  tx = tx.substr(0, suffix);
  Receiver receivers[2] = {{arguments[0], arguments[2]}, {arguments[0], arguments[3]}};
  Sender senders[2] = {{tx, arguments[3]}, {tx, arguments[2]}};
  // Making the rings is not counted.
  rusage before{};
  getrusage(RUSAGE_SELF, &before);
  const double cpu_before =
      static_cast<double>(before.ru_utime.tv_sec + before.ru_stime.tv_sec) +
      static_cast<double>(before.ru_utime.tv_usec + before.ru_stime.tv_usec) / 1e6;
  const double end = Now() + atof(arguments[4]);
  Frame frames[kBatch];
  uint64_t received = 0;
  uint64_t sent = 0;
  pollfd fds[2] = {{receivers[0].fd, POLLIN, 0}, {receivers[1].fd, POLLIN, 0}};
  while (Now() < end) {
    size_t any = 0;
    for (int side = 0; side < 2; side += 1) {
      const size_t count = receivers[side].Take(frames);
      if (count > 0) sent += senders[side].Send(frames, count);
      received += count;
      any += count;
    }
    if (any == 0) poll(fds, 2, 100);
  }
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const double cpu = static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                     static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
  printf("{\"received\":%llu,\"sent\":%llu,\"cpuSeconds\":%f}\n",
         static_cast<unsigned long long>(received), static_cast<unsigned long long>(sent),
         cpu - cpu_before);
  return 0;
}

int Generate(char** arguments) {
  bypass = true;
  Sender sender("ring", arguments[0]);
  alignas(8) static uint8_t memory[kBatch][128];
  Frame frames[kBatch];
  for (size_t i = 0; i < kBatch; i += 1) {
    uint8_t* at = memory[i] + 16;
    unsigned mac[6];
    if (sscanf(arguments[1], "%x:%x:%x:%x:%x:%x", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5) != 6) {
      return 2;
    }
    for (int j = 0; j < 6; j += 1) at[j] = static_cast<uint8_t>(mac[j]);
    at[6] = 2;
    at[12] = 8;
    const uint8_t header[28] = {0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 9,
                                0x10, static_cast<uint8_t>(i), 0, 9, 0, 26, 0, 0};
    memcpy(at + 14, header, sizeof header);
    uint32_t sum = 0;
    for (int j = 0; j < 20; j += 2) sum += static_cast<uint32_t>(at[14 + j] << 8 | at[15 + j]);
    sum = (sum & 0xffff) + (sum >> 16);
    at[24] = static_cast<uint8_t>(~sum >> 8);
    at[25] = static_cast<uint8_t>(~sum);
    frames[i] = {at, 60};
  }
  const double end = Now() + atof(arguments[2]);
  uint64_t sent = 0;
  while (Now() < end) sent += sender.Send(frames, kBatch);
  printf("{\"sent\":%llu}\n", static_cast<unsigned long long>(sent));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 7 && strcmp(arguments[1], "forward") == 0) return Forward(arguments + 2);
  if (count == 5 && strcmp(arguments[1], "generate") == 0) return Generate(arguments + 2);
  fprintf(stderr, "usage: forward RX TX INTERFACE INTERFACE SECONDS | generate INTERFACE MAC SECONDS\n");
  return 2;
}
