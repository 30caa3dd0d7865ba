// AF_XDP sockets that share one UMEM (Documentation/networking/af_xdp.rst): how they are made, told
// to send, and asked for what they lost. Who reads and writes the rings is the owner's business:
// TypeScript in the gateway (src/device/xdp-rings.ts), C++ in the bench. No Node-API here.
#ifndef HEADGATE_ADDON_XSK_H_
#define HEADGATE_ADDON_XSK_H_

#include <linux/if_xdp.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "own.h"

namespace headgate {

// The kernel leaves this much before a received frame for programs that grow it
// (XDP_PACKET_HEADROOM, include/uapi/linux/bpf.h), and then the UMEM's own headroom.
constexpr size_t kXskKernelHeadroom = 256;

// Headroom of a UMEM: the frame starts at 258 of its chunk, so that the IP header is at a multiple
// of 4 (272), and Ethernet, IPv4 and TCP headers (54 bytes) lie in one cache line, 256-319. What
// goes before a frame on its way out has room there too: the largest outer header (IPv6 and UDP, 48
// bytes) and 24 bytes of metadata leave 186.
constexpr size_t kXskHeadroom = 2;
constexpr size_t kXskFrameAt = kXskKernelHeadroom + kXskHeadroom;
static_assert((kXskFrameAt + 14) % 4 == 0, "the IP header is aligned");

// struct xsk_tx_metadata of Linux 6.8 (and its launch time, 6.14), before the frame.
constexpr size_t kXskTxMetadataBytes = 24;

enum class ZeroCopy { kAuto, kOff, kRequire };

struct XskSettings {
  size_t chunk_bytes = 2048;  // 2048 or 4096
  size_t chunks = 0;
  // Powers of two.
  uint32_t fill_entries = 2048;
  uint32_t completion_entries = 2048;
  uint32_t rx_entries = 2048;
  uint32_t tx_entries = 2048;
  ZeroCopy zero_copy = ZeroCopy::kAuto;
  // Microseconds; 0: no busy polling.
  int busy_poll_us = 0;
  // Frames that one send takes from the ring, where the kernel can be told (Linux 6.17).
  int tx_budget = 128;
};

// Where one socket listens.
struct XskPlace {
  int interface_index = 0;
  std::string interface;
  uint32_t queue = 0;
  // The XDP program runs in generic mode there: no zero-copy.
  bool generic = false;
};

// One ring as it lies in memory. All positions count modulo 2^32; entry = position % entries.
struct XskRing {
  uint32_t* producer = nullptr;
  uint32_t* consumer = nullptr;
  uint32_t* flags = nullptr;
  // uint64_t addresses (fill, completion) or xdp_desc (rx, tx).
  uint8_t* entries_at = nullptr;
  uint32_t entries = 0;

  uint64_t& Address(uint32_t position) const {
    return reinterpret_cast<uint64_t*>(entries_at)[position & (entries - 1)];
  }
  xdp_desc& Descriptor(uint32_t position) const {
    return reinterpret_cast<xdp_desc*>(entries_at)[position & (entries - 1)];
  }
  bool NeedsWakeup() const {
    return (__atomic_load_n(flags, __ATOMIC_ACQUIRE) & XDP_RING_NEED_WAKEUP) != 0;
  }
};

struct XskSocket {
  Fd fd;
  XskRing fill, completion, rx, tx;
  bool zero_copy = false;
  // Producer of the send ring that the kernel was last told of.
  uint32_t told = 0;
};

// One UMEM and its sockets.
class XskGroup {
 public:
  // Bytes of the rings of one socket, whole pages; asks the kernel how they are laid out.
  Failure MeasureRings(const XskSettings& settings, size_t* bytes);

  // Opens a socket at every place. `umem` (page-aligned, chunks * chunk_bytes, mapped and writable)
  // is registered; the rings are mapped at `rings` (page-aligned, address space of places *
  // MeasureRings bytes, which is mapped over). Both must outlive the group's rings: unmap them
  // before Close. Waits up to 2 s for queues that a process which just ended still holds.
  Failure Open(const XskSettings& settings, uint8_t* umem, uint8_t* rings,
               const std::vector<XskPlace>& places);

  // Has the kernel send what is in the send ring of socket `index`, until the ring is empty or the
  // kernel takes no more for now. Returns 0, or errno (ENETDOWN: interface down; ENXIO: gone): then
  // the frames that were added since the last Kick have been taken out of the ring again.
  int Kick(size_t index);

  // Frames lost before the rings since the group was opened.
  double Missed() const;

  void Close() { sockets.clear(); }

  std::vector<XskSocket> sockets;
  // Frames may carry struct xsk_tx_metadata (descriptor option XDP_TX_METADATA).
  bool tx_metadata = false;

 private:
  Failure OpenAll(const XskSettings& settings, bool zero_copy, uint8_t* umem, uint8_t* rings,
                  const std::vector<XskPlace>& places);
  Failure OpenOne(const XskSettings& settings, bool zero_copy, uint8_t* umem, uint8_t* rings,
                  const XskPlace& place);
  Failure RegisterUmem(const XskSettings& settings, uint8_t* umem, int fd, const std::string& name);
  Failure MapRing(int fd, uint64_t page_offset, const xdp_ring_offset& offsets, uint32_t entries,
                  size_t entry_bytes, uint8_t** at, XskRing* ring, const std::string& name);

  xdp_mmap_offsets offsets_{};
  size_t rings_bytes_ = 0;
};

}  // namespace headgate

#endif  // HEADGATE_ADDON_XSK_H_
