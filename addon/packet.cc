// AF_PACKET on up to 16 Ethernet interfaces, with memory mapped both ways.
//
// Memory    batch | spares | inlet | big frames | receive ring of interface 0 | of interface 1 | ...
//           The send rings are mapped elsewhere: JavaScript never writes there.
// Receive   TPACKET_V2 (net/packet/af_packet.c, tpacket_rcv): slots of 2 KiB. V3 would hand over a
//           block only when it is full or its timer fires, which a ping can feel. A frame that does
//           not fit its slot comes a second time, whole, through recv (PACKET_COPY_THRESH), and is
//           read into the big-frame area. Slots go back to the kernel at the next receive.
// Send      What fits a slot of the send ring is copied there, one send(2) a batch and interface;
//           larger frames go by sendmmsg. On each interface, frames leave in the order given.
// Headers   With PACKET_VNET_HDR the 10-byte header lies right before the Ethernet header, and
//           PACKET_RESERVE 2 brings the IP header to a multiple of 4:
//           TPACKET_ALIGN(tp_hdrlen + 16) + 2 + 10 = 92. (PACKET_VNET_HDR_SZ 12 would do it too,
//           but only since Linux 6.5, and the header would still be 10 bytes away.)
//
// Workers   One socket an interface and worker, in one fan-out group an interface. A group hands its
//           members' numbers out in the order in which they joined, also after the interface was
//           down: the kernel takes its sockets out and in again in the order of their making.
//
// docs/decisions/0001-packet-receive-and-send.md has the measurements behind this.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <algorithm>
#include <memory>

#include "frame_io.h"
#include "groups.h"
#include "parts.h"

// Newer than Debian 12's header. A kernel that does not know it shows a group what we send, and
// TakeSlot() skips that.
#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000
#endif

namespace headgate {

namespace {

constexpr size_t kSlotBytes = 2048;
// 8 MiB an interface: at half a million frames a second, 8 ms in which we need not run.
constexpr size_t kRxSlots = 4096;
// Eight times what one batch can send: slots come back only when the receiver has the frame.
constexpr size_t kTxSlots = 1024;
constexpr size_t kBlockBytes = 1 << 16;

// Where the frame starts in a slot of the receive ring.
constexpr unsigned kReserve = 2;
constexpr size_t kRxFrameAt = TPACKET_ALIGN(TPACKET2_HDRLEN + 16) + kReserve + kVnetBytes - ETH_HLEN;
static_assert((kRxFrameAt + ETH_HLEN) % 4 == 0, "the IP header is aligned");
// The status word at the slot's start goes back to the kernel with it; the rest was read.
static_assert(kRxFrameAt - kHeadroomBytes >= sizeof(uint32_t), "the headroom leaves the status");
constexpr size_t kAddressAt = TPACKET_ALIGN(sizeof(tpacket2_hdr));

// Where the kernel expects data in a slot of the send ring (tpacket_parse_header).
constexpr size_t kTxDataAt = TPACKET2_HDRLEN - sizeof(sockaddr_ll);
constexpr size_t kTxFrameMax = kSlotBytes - kTxDataAt - kVnetBytes;

// Big frames lie one behind the other, each behind the headroom and the header: IP header at 80.
constexpr size_t kBigHeaderAt = 8 + kHeadroomBytes;
constexpr size_t kBigFrameAt = kBigHeaderAt + kVnetBytes;
static_assert((kBigFrameAt + ETH_HLEN) % 4 == 0, "the IP header is aligned");
constexpr size_t kBigStep = 64;
constexpr size_t kBigBytes = kBatchFramesMax * RoundUp(kBigFrameAt + kFrameBytesMax, kBigStep);

// Slots looked at per interface and batch, when many are not for us.
constexpr int kLooksMax = 4 * kBatchFramesMax;

// Room for big frames that wait to be read, and for frames on their way out.
constexpr int kSocketBufferBytes = 64 << 20;

enum class Pending { kNone, kRing, kMessages };

struct Link {
  // Bound to an abstract name per interface: a second device on it is refused.
  Fd lock;
  // Receives by ring and recv, sends big frames.
  Fd rx;
  // Has the send ring, receives nothing.
  Fd tx;
  size_t ring_at = 0;
  size_t position = 0;
  size_t released = 0;
  Mapping tx_ring;
  size_t tx_position = 0;
  int mtu = 0;

  // Frames of the transmit that is going on which the kernel has not been told of yet.
  Pending pending = Pending::kNone;
  int queued_count = 0;
  int queued[kOutFramesMax];
  VnetHeader headers[kOutFramesMax];
  iovec parts[kOutFramesMax][2];
  mmsghdr messages[kOutFramesMax];
};

Failure SetOption(int fd, int level, int option, int value, const char* name,
                  const std::string& subject) {
  if (setsockopt(fd, level, option, &value, sizeof value) == 0) return {};
  return {errno, name, subject};
}

// Large, whatever net.core.*mem_max says; without CAP_NET_ADMIN as large as it allows.
void SetBuffer(int fd, int force_option, int option) {
  const int bytes = kSocketBufferBytes;
  if (setsockopt(fd, SOL_SOCKET, force_option, &bytes, sizeof bytes) != 0) {
    (void)setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof bytes);
  }
}

int32_t ResultOf(int code) {
  if (code == EAGAIN || code == ENOBUFS || code == ENOMEM) return kTxFull;
  return code == EMSGSIZE ? kTxTooBig : kTxFailed;
}

class PacketIo : public FrameIo {
 public:
  Failure Open(const std::vector<std::string>& names, int wake_fd, const Crew& crew) {
    crew_ = crew;
    if (Failure failure = KeepWakes(crew.wakes)) return failure;
    wake_ = Fd(fcntl(wake_fd, F_DUPFD_CLOEXEC, 0));
    if (!wake_.ok()) return {errno, "fcntl", "wakeFd"};
    control_ = Fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!control_.ok()) return {errno, "socket", names[0]};

    int mtu_max = 0;
    for (const std::string& name : names) {
      links_.push_back(std::make_unique<Link>());
      if (Failure failure = Describe(name, links_.back().get())) return failure;
      mtu_max = std::max(mtu_max, links_.back()->mtu);
    }

    spare_bytes =
        std::max(kSpareBytesMin, RoundUp(static_cast<size_t>(mtu_max) + kSpareLeadBytes, 64));
    spare_at = kHeaderBytes;
    big_at_ = spare_at + kSpareCount * spare_bytes;
    if (InletBytes(crew) > 0) {
      inlet_at = big_at_;
      big_at_ += InletBytes(crew);
    }
    const size_t plain_bytes = RoundUp(big_at_ + kBigBytes, 4096);
    const size_t ring_bytes = kRxSlots * kSlotBytes;
    // Pages of big frames come with the first ones: where there are none, 4 MiB stay the host's.
    if (Failure failure = Reserve(plain_bytes + names.size() * ring_bytes, plain_bytes, big_at_)) {
      return failure;
    }
    for (size_t i = 0; i < links_.size(); i += 1) {
      links_[i]->ring_at = plain_bytes + i * ring_bytes;
      if (Failure failure = OpenRx(links_[i].get(), i)) return failure;
      if (Failure failure = OpenTx(links_[i].get(), interfaces[i])) return failure;
      mtu_words()[i] = links_[i]->mtu;
      fds_[i] = {links_[i]->rx.get(), POLLIN, 0};
    }
    fds_[links_.size()] = {wake_.get(), POLLIN, 0};
    WriteTick();
    return {};
  }

  int Receive(int timeout_ms) override {
    for (auto& link : links_) ReleaseSlots(link.get());
    big_used_ = 0;
    if (gone_) return -ENODEV;
    int count = Collect();
    if (count == 0 && timeout_ms != 0) {
      const bool found = SpinUntil([this, &count] { return (count = Collect()) != 0; });
      if (!found) {
        Wait(timeout_ms);
        if (gone_) return -ENODEV;
        count = Collect();
      }
    }
    if (count > 0) NoteFrames();
    const uint32_t tick = WriteTick();
    if (tick - links_read_ >= 1000) {
      links_read_ = tick;
      for (size_t i = 0; i < links_.size(); i += 1) ReadLink(i);
    }
    return count;
  }

  int Transmit(int count) override {
    for (int i = 0; i < count; i += 1) {
      Descriptor& frame = tx()[i];
      frame.result = Refusal(frame);
      if (frame.result != kTxSent) continue;
      Link* link = links_[static_cast<size_t>(frame.interface)].get();
      const bool fits = static_cast<size_t>(frame.bytes) <= kTxFrameMax;
      const Pending kind = fits ? Pending::kRing : Pending::kMessages;
      // Flushing before the kind changes keeps the order of frames on the interface.
      if (link->pending != kind) Flush(link);
      link->pending = kind;
      link->queued[link->queued_count] = i;
      link->queued_count += 1;
    }
    for (auto& link : links_) Flush(link.get());
    int sent = 0;
    for (int i = 0; i < count; i += 1) {
      if (tx()[i].result == kTxSent) sent += 1;
    }
    WriteTick();
    return sent;
  }

  IoStatistics ReadStatistics() override {
    for (auto& link : links_) {
      // The kernel's counters start again at each read.
      tpacket_stats statistics{};
      socklen_t bytes = sizeof statistics;
      if (getsockopt(link->rx.get(), SOL_PACKET, PACKET_STATISTICS, &statistics, &bytes) == 0) {
        missed_ += statistics.tp_drops;
      }
    }
    return {missed_, skipped_};
  }

  void Release() override {
    // The rings are unmapped first, then the sockets let go of their pages.
    memory.Unmap();
    links_.clear();
    control_.Close();
    wake_.Close();
  }

 private:
  // What the interface is: an Ethernet one that is up and that nobody else takes frames from.
  Failure Describe(const std::string& name, Link* link) {
    InterfaceInfo info;
    if (Failure failure = ReadEthernet(control_.get(), name, &info)) return failure;
    link->mtu = info.mtu;
    interfaces.push_back(info);
    // Worker 0 holds the interface for all.
    if (crew_.worker != 0) return {};

    // Abstract names belong to the network namespace, as the interface does, and go with the
    // process.
    link->lock = Fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!link->lock.ok()) return {errno, "socket", name};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    const int length = snprintf(address.sun_path + 1, sizeof address.sun_path - 1,
                                "headgate/packet/%d", info.index);
    const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                              static_cast<size_t>(length));
    if (bind(link->lock.get(), reinterpret_cast<sockaddr*>(&address), bytes) != 0) {
      return {errno, "interface", name};
    }
    return {};
  }

  // Options that both sockets need, set before their rings are made.
  Failure OpenSocket(Fd* fd, const std::string& name) {
    // Protocol 0: nothing is received until bind says what.
    *fd = Fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd->ok()) return {errno, "socket", name};
    const int socket = fd->get();
    if (Failure failure = SetOption(socket, SOL_PACKET, PACKET_VERSION, TPACKET_V2,
                                    "PACKET_VERSION", name)) {
      return failure;
    }
    if (Failure failure =
            SetOption(socket, SOL_PACKET, PACKET_VNET_HDR, 1, "PACKET_VNET_HDR", name)) {
      return failure;
    }
    SetBuffer(socket, SO_SNDBUFFORCE, SO_SNDBUF);
    return {};
  }

  Failure OpenRx(Link* link, size_t index) {
    const InterfaceInfo& info = interfaces[index];
    if (Failure failure = OpenSocket(&link->rx, info.name)) return failure;
    const int socket = link->rx.get();
    if (Failure failure = SetOption(socket, SOL_PACKET, PACKET_RESERVE, static_cast<int>(kReserve),
                                    "PACKET_RESERVE", info.name)) {
      return failure;
    }
    if (Failure failure = SetOption(socket, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1,
                                    "PACKET_IGNORE_OUTGOING", info.name)) {
      return failure;
    }
    if (Failure failure = SetOption(socket, SOL_PACKET, PACKET_COPY_THRESH, 1,
                                    "PACKET_COPY_THRESH", info.name)) {
      return failure;
    }
    if (Failure failure = JoinGroups(socket, info.index, info.name)) return failure;
    SetBuffer(socket, SO_RCVBUFFORCE, SO_RCVBUF);
    const size_t bytes = kRxSlots * kSlotBytes;
    if (Failure failure = MakeRing(socket, PACKET_RX_RING, kRxSlots, "PACKET_RX_RING", info.name)) {
      return failure;
    }
    void* at = mmap(memory.at() + link->ring_at, bytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_FIXED, socket, 0);
    if (at == MAP_FAILED) return {errno, "mmap", info.name};
    if (crew_.workers == 1) return Bind(socket, info, ETH_P_ALL);
    return JoinGroup(socket, index);
  }

  // Takes its share of the interface's frames. A socket has to be bound before it can join, and
  // would see a second copy of every frame until it has: a filter keeps them out meanwhile.
  Failure JoinGroup(int socket, size_t index) {
    const InterfaceInfo& info = interfaces[index];
    sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
    const sock_fprog filter{1, &nothing};
    if (setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) != 0) {
      return {errno, "SO_ATTACH_FILTER", info.name};
    }
    if (Failure failure = Bind(socket, info, ETH_P_ALL)) return failure;
    // Rollover stays off: a frame that another worker would have to give back helps nobody. The
    // group's own flag decides whether what we send comes back.
    const bool is_first = index >= crew_.groups.size();
    const uint32_t flags = PACKET_FANOUT_EBPF | PACKET_FANOUT_FLAG_IGNORE_OUTGOING |
                           (is_first ? PACKET_FANOUT_FLAG_UNIQUEID : 0);
    int group = static_cast<int>(flags << 16) | (is_first ? 0 : crew_.groups[index]);
    if (setsockopt(socket, SOL_PACKET, PACKET_FANOUT, &group, sizeof group) != 0) {
      return {errno, "PACKET_FANOUT", info.name};
    }
    if (is_first) {
      socklen_t bytes = sizeof group;
      if (getsockopt(socket, SOL_PACKET, PACKET_FANOUT, &group, &bytes) != 0) {
        return {errno, "PACKET_FANOUT", info.name};
      }
      if (setsockopt(socket, SOL_PACKET, PACKET_FANOUT_DATA, &crew_.program,
                     sizeof crew_.program) != 0) {
        return {errno, "PACKET_FANOUT_DATA", info.name};
      }
    }
    groups.push_back(group & 0xffff);
    const int unused = 0;
    if (setsockopt(socket, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused) != 0) {
      return {errno, "SO_DETACH_FILTER", info.name};
    }
    return {};
  }

  Failure OpenTx(Link* link, const InterfaceInfo& info) {
    if (Failure failure = OpenSocket(&link->tx, info.name)) return failure;
    const int socket = link->tx.get();
    const size_t bytes = kTxSlots * kSlotBytes;
    if (Failure failure = MakeRing(socket, PACKET_TX_RING, kTxSlots, "PACKET_TX_RING", info.name)) {
      return failure;
    }
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, socket, 0);
    if (at == MAP_FAILED) return {errno, "mmap", info.name};
    link->tx_ring = Mapping(at, bytes);
    return Bind(socket, info, 0);
  }

  static Failure MakeRing(int socket, int option, size_t slots, const char* name,
                          const std::string& subject) {
    tpacket_req ring{};
    ring.tp_block_size = kBlockBytes;
    ring.tp_block_nr = static_cast<unsigned>(slots * kSlotBytes / kBlockBytes);
    ring.tp_frame_size = kSlotBytes;
    ring.tp_frame_nr = static_cast<unsigned>(slots);
    if (setsockopt(socket, SOL_PACKET, option, &ring, sizeof ring) == 0) return {};
    return {errno, name, subject};
  }

  static Failure Bind(int socket, const InterfaceInfo& info, uint16_t protocol) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(protocol);
    address.sll_ifindex = info.index;
    if (bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return {};
    return {errno, "bind", info.name};
  }

  tpacket2_hdr* RxSlot(const Link* link, size_t position) const {
    return reinterpret_cast<tpacket2_hdr*>(memory.at() + link->ring_at +
                                           position % kRxSlots * kSlotBytes);
  }

  static tpacket2_hdr* TxSlot(const Link* link, size_t position) {
    return reinterpret_cast<tpacket2_hdr*>(link->tx_ring.at() + position % kTxSlots * kSlotBytes);
  }

  void ReleaseSlots(Link* link) const {
    for (; link->released != link->position; link->released += 1) {
      __atomic_store_n(&RxSlot(link, link->released)->tp_status, TP_STATUS_KERNEL,
                       __ATOMIC_RELEASE);
    }
  }

  // Waits for a frame, a wake-up, or the time. Notes an interface that is gone.
  void Wait(int timeout_ms) {
    const size_t count = links_.size();
    if (poll(fds_, count + 1, timeout_ms) <= 0) return;
    if (fds_[count].revents != 0) DrainWake(wake_.get());
    for (size_t i = 0; i < count; i += 1) {
      if ((fds_[i].revents & (POLLERR | POLLHUP | POLLNVAL)) == 0) continue;
      // ENETDOWN, told once when the interface goes down; reading it makes poll wait again.
      int code = 0;
      socklen_t bytes = sizeof code;
      (void)getsockopt(fds_[i].fd, SOL_SOCKET, SO_ERROR, &code, &bytes);
      ReadLink(i);
    }
  }

  // Follows the MTU, and finds out whether the interface is still there.
  void ReadLink(size_t i) {
    const int mtu = ReadMtu(control_.get(), interfaces[i].index, nullptr);
    if (mtu == -ENODEV) gone_ = true;
    if (mtu <= 0) return;
    links_[i]->mtu = mtu;
    // A spare has to hold a frame of the MTU that the fast path goes by.
    mtu_words()[i] = std::min(mtu, static_cast<int>(spare_bytes - kSpareLeadBytes));
  }

  // Frames of all interfaces: each gets its share of the batch, then the rest is for whoever has
  // more. Who comes first changes with every batch.
  int Collect() {
    const size_t links = links_.size();
    const size_t first = turn_;
    turn_ = (turn_ + 1) % links;
    int count = 0;
    for (size_t j = 0; j < links && count < kBatchFramesMax; j += 1) {
      const int left = static_cast<int>(links - j);
      count = Take((first + j) % links, count, count + (kBatchFramesMax - count + left - 1) / left);
    }
    for (size_t j = 0; j + 1 < links && count < kBatchFramesMax; j += 1) {
      count = Take((first + j) % links, count, kBatchFramesMax);
    }
    return count;
  }

  // Takes frames of one interface until rx has `limit` descriptors.
  int Take(size_t index, int count, int limit) {
    Link* link = links_[index].get();
    for (int looks = 0; count < limit && looks < kLooksMax; looks += 1) {
      tpacket2_hdr* slot = RxSlot(link, link->position);
      const uint32_t status = __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
      if ((status & TP_STATUS_USER) == 0) break;
      link->position += 1;
      __builtin_prefetch(RxSlot(link, link->position));
      if (TakeSlot(link, static_cast<int>(index), slot, status, &rx()[count])) count += 1;
    }
    return count;
  }

  bool TakeSlot(Link* link, int interface, const tpacket2_hdr* slot, uint32_t status,
                Descriptor* out) {
    const auto* start = reinterpret_cast<const uint8_t*>(slot);
    size_t at = static_cast<size_t>(start - memory.at()) + slot->tp_mac;
    // First of all, since its second copy has to leave the socket's queue in any case.
    if ((status & TP_STATUS_COPY) != 0) {
      if (!ReadBig(link, slot->tp_len, &at)) {
        missed_ += 1;
        return false;
      }
    } else if (slot->tp_snaplen < slot->tp_len) {
      // The socket had no room for the whole frame.
      missed_ += 1;
      return false;
    }
    const auto* address = reinterpret_cast<const sockaddr_ll*>(start + kAddressAt);
    const bool is_tagged = (status & TP_STATUS_VLAN_VALID) != 0;
    if (address->sll_pkttype > PACKET_MULTICAST || is_tagged || slot->tp_len < ETH_HLEN) {
      skipped_ += 1;
      return false;
    }
    if (at % kSlotBytes == kRxFrameAt % kSlotBytes) __builtin_prefetch(memory.at() + at + 64);
    VnetHeader vnet;
    memcpy(&vnet, memory.at() + at - kVnetBytes, sizeof vnet);
    FrameIo::Describe(out, at, slot->tp_len, interface, vnet);
    return true;
  }

  // Reads the whole frame of a slot that has only its beginning, and says where it lies.
  bool ReadBig(Link* link, size_t frame_bytes, size_t* at) {
    uint8_t* start = memory.at() + big_at_ + big_used_;
    // The queue has the frames in the order of their slots. Should one ever be missing, those of
    // another length are skipped until the lengths agree again.
    for (int tries = 0; tries < kBatchFramesMax; tries += 1) {
      const ssize_t bytes = recv(link->rx.get(), start + kBigHeaderAt, kVnetBytes + kFrameBytesMax,
                                 MSG_DONTWAIT | MSG_TRUNC);
      if (bytes < 0) {
        // An interface that went down leaves its error before the frames that came before.
        if (errno == ENETDOWN || errno == EINTR) continue;
        return false;
      }
      if (static_cast<size_t>(bytes) != kVnetBytes + frame_bytes) continue;
      if (frame_bytes > kFrameBytesMax) return false;
      *at = big_at_ + big_used_ + kBigFrameAt;
      big_used_ += RoundUp(kBigFrameAt + frame_bytes, kBigStep);
      return true;
    }
    return false;
  }

  // kTxSent when the frame may be sent. With PACKET_VNET_HDR the send ring does not compare with
  // the MTU (tpacket_snd), and no path does for GSO frames.
  int32_t Refusal(const Descriptor& frame) const {
    if (!IsFrame(frame) || frame.bytes < ETH_HLEN || frame.interface < 0 ||
        static_cast<size_t>(frame.interface) >= links_.size()) {
      return kTxFailed;
    }
    const int frame_max = links_[static_cast<size_t>(frame.interface)]->mtu + ETH_HLEN;
    if ((frame.vnet & 0xff00) == 0) return frame.bytes > frame_max ? kTxTooBig : kTxSent;
    const VnetHeader vnet = VnetOf(frame, memory.at() + frame.at);
    return vnet.hdr_len + vnet.gso_size > frame_max ? kTxTooBig : kTxSent;
  }

  void Flush(Link* link) {
    if (link->queued_count == 0) return;
    if (link->pending == Pending::kRing) {
      FlushRing(link);
    } else {
      FlushMessages(link);
    }
    link->queued_count = 0;
  }

  // Sends the queued frames through the ring. The kernel works through the slots in order and
  // stops at the first one that it cannot send, which it leaves as it was (TP_STATUS_SEND_REQUEST)
  // or marks (TP_STATUS_WRONG_FORMAT). That frame gets its result, those behind it are put into
  // the ring again from that slot on, and the kernel is told again: each frame is tried once.
  void FlushRing(Link* link) {
    int next = 0;
    bool was_down = false;
    while (next < link->queued_count) {
      const size_t base = link->tx_position;
      int filled = 0;
      while (next + filled < link->queued_count && FillSlot(link, base, filled, next + filled)) {
        filled += 1;
      }
      // No slot is free: they all are with the receiver.
      if (filled == 0) return FinishQueue(link, next, kTxFull);

      const int code =
          send(link->tx.get(), nullptr, 0, MSG_DONTWAIT) < 0 ? errno : 0;
      int done = 0;
      while (done < filled) {
        const uint32_t status =
            __atomic_load_n(&TxSlot(link, base + static_cast<size_t>(done))->tp_status,
                            __ATOMIC_ACQUIRE);
        if ((status & (TP_STATUS_SEND_REQUEST | TP_STATUS_WRONG_FORMAT)) != 0) break;
        done += 1;
      }
      link->tx_position = base + static_cast<size_t>(done);
      next += done;
      if (done == filled) continue;

      for (int i = done; i < filled; i += 1) {
        __atomic_store_n(&TxSlot(link, base + static_cast<size_t>(i))->tp_status,
                         TP_STATUS_AVAILABLE, __ATOMIC_RELEASE);
      }
      // A socket tells once that its interface was down, also when it is up again.
      if (code == ENETDOWN && !was_down) {
        was_down = true;
        continue;
      }
      if (code == ENETDOWN || code == ENXIO || code == EAGAIN) {
        return FinishQueue(link, next, ResultOf(code));
      }
      tx()[link->queued[next]].result = ResultOf(code);
      next += 1;
    }
  }

  bool FillSlot(Link* link, size_t base, int offset, int queued) {
    tpacket2_hdr* slot = TxSlot(link, base + static_cast<size_t>(offset));
    if (__atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE) != TP_STATUS_AVAILABLE) return false;
    const Descriptor& frame = tx()[link->queued[queued]];
    const uint8_t* bytes = memory.at() + frame.at;
    VnetHeader vnet = VnetOf(frame, bytes);
    // The kernel copies hdr_len bytes and refers to the ring's page for the rest, which a veth
    // then has to copy into a page of its own. Copying all of it at once is cheaper.
    if (vnet.gso_type == 0) vnet.hdr_len = static_cast<uint16_t>(frame.bytes);
    auto* data = reinterpret_cast<uint8_t*>(slot) + kTxDataAt;
    memcpy(data, &vnet, sizeof vnet);
    memcpy(data + kVnetBytes, bytes, static_cast<size_t>(frame.bytes));
    slot->tp_len = static_cast<uint32_t>(frame.bytes) + static_cast<uint32_t>(kVnetBytes);
    __atomic_store_n(&slot->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
    return true;
  }

  void FlushMessages(Link* link) {
    const int count = link->queued_count;
    for (int i = 0; i < count; i += 1) {
      const Descriptor& frame = tx()[link->queued[i]];
      uint8_t* bytes = memory.at() + frame.at;
      link->headers[i] = VnetOf(frame, bytes);
      link->parts[i][0] = {&link->headers[i], kVnetBytes};
      link->parts[i][1] = {bytes, static_cast<size_t>(frame.bytes)};
      link->messages[i] = {};
      link->messages[i].msg_hdr.msg_iov = link->parts[i];
      link->messages[i].msg_hdr.msg_iovlen = 2;
    }
    int next = 0;
    bool was_down = false;
    while (next < count) {
      const int sent = sendmmsg(link->rx.get(), link->messages + next,
                                static_cast<unsigned>(count - next), MSG_DONTWAIT);
      if (sent > 0) {
        next += sent;
        continue;
      }
      if (errno == EINTR) continue;
      if (errno == ENETDOWN && !was_down) {
        was_down = true;
        continue;
      }
      if (errno == ENETDOWN || errno == ENXIO || errno == EAGAIN) {
        return FinishQueue(link, next, ResultOf(errno));
      }
      tx()[link->queued[next]].result = ResultOf(errno);
      next += 1;
    }
  }

  void FinishQueue(Link* link, int from, int32_t result) {
    for (int i = from; i < link->queued_count; i += 1) tx()[link->queued[i]].result = result;
  }

  std::vector<std::unique_ptr<Link>> links_;
  Crew crew_;
  Fd wake_;
  Fd control_;
  pollfd fds_[kInterfacesMax + 1];
  size_t big_at_ = 0;
  size_t big_used_ = 0;
  size_t turn_ = 0;
  uint32_t links_read_ = 0;
  bool gone_ = false;
  double missed_ = 0;
  double skipped_ = 0;
};

// openPacket(interfaces, wakeFd, crew)
Napi::Value OpenPacket(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  std::vector<std::string> names;
  if (info.Length() >= 2 && info[0].IsArray() && info[1].IsNumber()) {
    const auto list = info[0].As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); i += 1) {
      const Napi::Value name = list[i];
      if (name.IsString()) names.push_back(name.As<Napi::String>().Utf8Value());
    }
    if (names.size() != list.Length() || names.size() > kInterfacesMax) names.clear();
  }
  if (names.empty()) {
    Throw(env, {EINVAL, "openPacket", "interfaces, wakeFd"});
    return env.Undefined();
  }
  auto* io = new PacketIo();
  if (const Failure failure = io->Open(names, info[1].As<Napi::Number>().Int32Value(), ReadCrew(info[2]))) {
    delete io;
    Throw(env, failure);
    return env.Undefined();
  }
  return Napi::Value(env, MakeDevice(env, io));
}

}  // namespace

void InitPacket(Napi::Env env, Napi::Object exports) {
  exports.Set("openPacket", Napi::Function::New(env, OpenPacket, "openPacket"));
}

}  // namespace headgate
