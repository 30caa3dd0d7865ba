#include "xsk.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>

namespace headgate {

namespace {

// Newer than Debian 12's headers.
constexpr int kSolXdp = 283;                  // SOL_XDP, Linux 4.18
constexpr int kMaxTxSkbBudget = 9;            // XDP_MAX_TX_SKB_BUDGET, Linux 6.17
constexpr uint32_t kUmemTxMetadataLen = 4;    // XDP_UMEM_TX_METADATA_LEN, Linux 6.11
constexpr int kBusyPollBudget = 64;           // NAPI_POLL_WEIGHT

// struct xdp_umem_reg of Linux 6.8: the new field lies where the old struct was padded.
struct UmemRegistration {
  uint64_t addr;
  uint64_t len;
  uint32_t chunk_size;
  uint32_t headroom;
  uint32_t flags;
  uint32_t tx_metadata_len;
};
static_assert(sizeof(UmemRegistration) == sizeof(xdp_umem_reg));

constexpr size_t kPageBytes = 4096;
constexpr int kBusyTries = 100;
constexpr long kBusyPauseNs = 20'000'000;
// Sends of one Kick that take nothing off the ring before it gives up.
constexpr int kIdleSendsMax = 2;

Failure SetRing(int fd, int option, uint32_t entries, const char* call, const std::string& name) {
  if (setsockopt(fd, kSolXdp, option, &entries, sizeof entries) == 0) return {};
  return {errno, call, name};
}

void SetInt(int fd, int level, int option, int value) {
  // What the kernel does not know or allow here is only slower without.
  (void)setsockopt(fd, level, option, &value, sizeof value);
}

// True when another try with copies can do better: the driver has no zero-copy.
bool IsZeroCopyRefusal(int code) {
  return code == EOPNOTSUPP || code == EINVAL || code == ENOTSUP || code == ENOSYS;
}

}  // namespace

Failure XskGroup::MeasureRings(const XskSettings& settings, size_t* bytes) {
  const Fd fd(socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return {errno, "socket(AF_XDP)", "AF_XDP"};
  socklen_t length = sizeof offsets_;
  if (getsockopt(fd.get(), kSolXdp, XDP_MMAP_OFFSETS, &offsets_, &length) != 0 ||
      length != sizeof offsets_) {
    return {errno == 0 ? EINVAL : errno, "XDP_MMAP_OFFSETS", "AF_XDP"};
  }
  const auto pages = [](const xdp_ring_offset& ring, size_t entries, size_t entry_bytes) {
    return RoundUp(ring.desc + entries * entry_bytes, kPageBytes);
  };
  rings_bytes_ = pages(offsets_.fr, settings.fill_entries, sizeof(uint64_t)) +
                 pages(offsets_.cr, settings.completion_entries, sizeof(uint64_t)) +
                 pages(offsets_.rx, settings.rx_entries, sizeof(xdp_desc)) +
                 pages(offsets_.tx, settings.tx_entries, sizeof(xdp_desc));
  *bytes = rings_bytes_;
  return {};
}

Failure XskGroup::Open(const XskSettings& settings, uint8_t* umem, uint8_t* rings,
                       const std::vector<XskPlace>& places) {
  const bool generic =
      std::any_of(places.begin(), places.end(), [](const XskPlace& place) { return place.generic; });
  // A UMEM is all zero-copy or all copies (net/xdp/xsk_buff_pool.c, xp_assign_dev_shared).
  if (settings.zero_copy != ZeroCopy::kOff && !(generic && settings.zero_copy == ZeroCopy::kAuto)) {
    const Failure failure = OpenAll(settings, true, umem, rings, places);
    if (!failure || settings.zero_copy == ZeroCopy::kRequire) return failure;
    if (!IsZeroCopyRefusal(failure.code)) return failure;
  }
  return OpenAll(settings, false, umem, rings, places);
}

Failure XskGroup::OpenAll(const XskSettings& settings, bool zero_copy, uint8_t* umem,
                          uint8_t* rings, const std::vector<XskPlace>& places) {
  Failure failure;
  for (size_t i = 0; i < places.size() && !failure; i += 1) {
    failure = OpenOne(settings, zero_copy, umem, rings + i * rings_bytes_, places[i]);
  }
  if (failure) {
    // Nothing of a socket may be mapped when it is closed.
    const size_t bytes = places.size() * rings_bytes_;
    (void)mmap(rings, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
               0);
    sockets.clear();
  }
  return failure;
}

Failure XskGroup::OpenOne(const XskSettings& settings, bool zero_copy, uint8_t* umem,
                          uint8_t* rings, const XskPlace& place) {
  XskSocket made;
  made.fd = Fd(socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0));
  const int fd = made.fd.get();
  const std::string& name = place.interface;
  if (!made.fd.ok()) return {errno, "socket(AF_XDP)", name};
  const bool first = sockets.empty();
  if (first) {
    if (Failure failure = RegisterUmem(settings, umem, fd, name)) return failure;
  }
  const struct {
    int option;
    uint32_t entries;
    const char* call;
  } sizes[] = {
      {XDP_UMEM_FILL_RING, settings.fill_entries, "XDP_UMEM_FILL_RING"},
      {XDP_UMEM_COMPLETION_RING, settings.completion_entries, "XDP_UMEM_COMPLETION_RING"},
      {XDP_RX_RING, settings.rx_entries, "XDP_RX_RING"},
      {XDP_TX_RING, settings.tx_entries, "XDP_TX_RING"},
  };
  for (const auto& size : sizes) {
    if (Failure failure = SetRing(fd, size.option, size.entries, size.call, name)) return failure;
  }
  SetInt(fd, kSolXdp, kMaxTxSkbBudget, settings.tx_budget);
  if (settings.busy_poll_us > 0) {
    SetInt(fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, 1);
    SetInt(fd, SOL_SOCKET, SO_BUSY_POLL, settings.busy_poll_us);
    SetInt(fd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, kBusyPollBudget);
  }
  uint8_t* at = rings;
  Failure failure = MapRing(fd, XDP_UMEM_PGOFF_FILL_RING, offsets_.fr, settings.fill_entries,
                            sizeof(uint64_t), &at, &made.fill, name);
  if (!failure) {
    failure = MapRing(fd, XDP_UMEM_PGOFF_COMPLETION_RING, offsets_.cr, settings.completion_entries,
                      sizeof(uint64_t), &at, &made.completion, name);
  }
  if (!failure) {
    failure = MapRing(fd, XDP_PGOFF_RX_RING, offsets_.rx, settings.rx_entries, sizeof(xdp_desc),
                      &at, &made.rx, name);
  }
  if (!failure) {
    failure = MapRing(fd, XDP_PGOFF_TX_RING, offsets_.tx, settings.tx_entries, sizeof(xdp_desc),
                      &at, &made.tx, name);
  }
  if (failure) return failure;

  sockaddr_xdp address{};
  address.sxdp_family = AF_XDP;
  address.sxdp_ifindex = static_cast<uint32_t>(place.interface_index);
  address.sxdp_queue_id = place.queue;
  if (first) {
    address.sxdp_flags = static_cast<uint16_t>(XDP_USE_NEED_WAKEUP |
                                               (zero_copy ? XDP_ZEROCOPY : XDP_COPY));
  } else {
    // The others are as the first (xsk_bind allows no further flag).
    address.sxdp_flags = XDP_SHARED_UMEM;
    address.sxdp_shared_umem_fd = static_cast<uint32_t>(sockets[0].fd.get());
  }
  for (int tries = 0;; tries += 1) {
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) break;
    if (errno != EBUSY || tries == kBusyTries) {
      return {errno, "bind(AF_XDP)", name + " queue " + std::to_string(place.queue)};
    }
    const timespec pause{0, kBusyPauseNs};
    nanosleep(&pause, nullptr);
  }
  xdp_options options{};
  socklen_t length = sizeof options;
  if (getsockopt(fd, kSolXdp, XDP_OPTIONS, &options, &length) == 0) {
    made.zero_copy = (options.flags & XDP_OPTIONS_ZEROCOPY) != 0;
  }
  sockets.push_back(std::move(made));
  return {};
}

Failure XskGroup::RegisterUmem(const XskSettings& settings, uint8_t* umem, int fd,
                               const std::string& name) {
  UmemRegistration umem_registration{};
  umem_registration.addr = reinterpret_cast<uint64_t>(umem);
  umem_registration.len = settings.chunks * settings.chunk_bytes;
  umem_registration.chunk_size = static_cast<uint32_t>(settings.chunk_bytes);
  umem_registration.headroom = kXskHeadroom;
  umem_registration.flags = kUmemTxMetadataLen;
  umem_registration.tx_metadata_len = kXskTxMetadataBytes;
  tx_metadata = true;
  if (setsockopt(fd, kSolXdp, XDP_UMEM_REG, &umem_registration, sizeof umem_registration) == 0) {
    return {};
  }
  if (errno != EINVAL) return {errno, "XDP_UMEM_REG", name};
  // A kernel before 6.11: partial checksums are completed by us.
  umem_registration.flags = 0;
  umem_registration.tx_metadata_len = 0;
  tx_metadata = false;
  if (setsockopt(fd, kSolXdp, XDP_UMEM_REG, &umem_registration, sizeof umem_registration) == 0) {
    return {};
  }
  return {errno, "XDP_UMEM_REG", name};
}

Failure XskGroup::MapRing(int fd, uint64_t page_offset, const xdp_ring_offset& offsets,
                          uint32_t entries, size_t entry_bytes, uint8_t** at, XskRing* ring,
                          const std::string& name) {
  const size_t bytes = RoundUp(offsets.desc + entries * entry_bytes, kPageBytes);
  void* mapped = mmap(*at, offsets.desc + entries * entry_bytes, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, static_cast<off_t>(page_offset));
  if (mapped == MAP_FAILED) return {errno, "mmap", name};
  ring->producer = reinterpret_cast<uint32_t*>(*at + offsets.producer);
  ring->consumer = reinterpret_cast<uint32_t*>(*at + offsets.consumer);
  ring->flags = reinterpret_cast<uint32_t*>(*at + offsets.flags);
  ring->entries_at = *at + offsets.desc;
  ring->entries = entries;
  *at += bytes;
  return {};
}

int XskGroup::Kick(size_t index) {
  XskSocket& socket = sockets[index];
  const XskRing& tx = socket.tx;
  const uint32_t producer = *tx.producer;
  uint32_t consumer = __atomic_load_n(tx.consumer, __ATOMIC_ACQUIRE);
  const uint32_t told = std::exchange(socket.told, producer);
  bool is_first = true;
  for (int idle = 0; consumer != producer && idle < kIdleSendsMax;) {
    if (!tx.NeedsWakeup()) return 0;
    const int code = sendto(socket.fd.get(), nullptr, 0, MSG_DONTWAIT, nullptr, 0) < 0 ? errno : 0;
    const uint32_t now = __atomic_load_n(tx.consumer, __ATOMIC_ACQUIRE);
    idle = now == consumer ? idle + 1 : 0;
    consumer = now;
    // EAGAIN: its budget is used up, or the completion ring is full. EBUSY: the NIC's queue is.
    if (code == 0 || code == EAGAIN || code == EBUSY || code == EINTR) {
      is_first = false;
      continue;
    }
    // With copies, nobody but a call of ours reads the ring, and it looks at the interface before
    // it looks there (xsk_xmit): the kernel has not seen these frames.
    if ((code != ENETDOWN && code != ENXIO) || socket.zero_copy || !is_first) return 0;
    __atomic_store_n(tx.producer, told, __ATOMIC_RELEASE);
    socket.told = told;
    return code;
  }
  return 0;
}

double XskGroup::Missed() const {
  double missed = 0;
  for (const XskSocket& socket : sockets) {
    xdp_statistics statistics{};
    socklen_t bytes = sizeof statistics;
    if (getsockopt(socket.fd.get(), kSolXdp, XDP_STATISTICS, &statistics, &bytes) != 0) continue;
    missed += static_cast<double>(statistics.rx_dropped) +
              static_cast<double>(statistics.rx_ring_full) +
              static_cast<double>(statistics.rx_fill_ring_empty_descs);
  }
  return missed;
}

}  // namespace headgate
