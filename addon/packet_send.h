// Sends whole frames through an AF_PACKET socket: for an interface on which a device owns no queue.
#ifndef HEADGATE_ADDON_PACKET_SEND_H_
#define HEADGATE_ADDON_PACKET_SEND_H_

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "frame_io.h"

namespace headgate {

class PacketSender {
 public:
  // Protocol 0: the socket receives nothing.
  Failure Open(const InterfaceInfo& info) {
    fd_ = Fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd_.ok()) return {errno, "socket", info.name};
    const int on = 1;
    if (setsockopt(fd_.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) != 0) {
      return {errno, "PACKET_VNET_HDR", info.name};
    }
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_ifindex = info.index;
    if (bind(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return {errno, "bind", info.name};
    }
    return {};
  }

  bool ok() const { return fd_.ok(); }

  // Adds a frame to the next Flush; its result is written there. Room for one transmit.
  void Add(Descriptor* frame, uint8_t* bytes, const VnetHeader& vnet) {
    frames_[count_] = frame;
    headers_[count_] = vnet;
    parts_[count_][0] = {&headers_[count_], kVnetBytes};
    parts_[count_][1] = {bytes, static_cast<size_t>(frame->bytes)};
    messages_[count_] = {};
    messages_[count_].msg_hdr.msg_iov = parts_[count_];
    messages_[count_].msg_hdr.msg_iovlen = 2;
    frame->result = kTxSent;
    count_ += 1;
  }

  // Sends what was added, in order; each frame is tried once.
  void Flush() {
    bool was_down = false;
    for (int next = 0; next < count_;) {
      const int sent = sendmmsg(fd_.get(), messages_ + next, static_cast<unsigned>(count_ - next),
                                MSG_DONTWAIT);
      if (sent > 0) {
        next += sent;
        continue;
      }
      if (errno == EINTR) continue;
      // A socket tells once that its interface was down, also when it is up again.
      if (errno == ENETDOWN && !was_down) {
        was_down = true;
        continue;
      }
      const int32_t result = errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ? kTxFull
                             : errno == EMSGSIZE                                    ? kTxTooBig
                                                                                    : kTxFailed;
      const bool all = errno == ENETDOWN || errno == ENXIO || errno == EAGAIN;
      for (const int end = all ? count_ : next + 1; next < end; next += 1) {
        frames_[next]->result = result;
      }
    }
    count_ = 0;
  }

 private:
  Fd fd_;
  int count_ = 0;
  Descriptor* frames_[kOutFramesMax];
  VnetHeader headers_[kOutFramesMax];
  iovec parts_[kOutFramesMax][2];
  mmsghdr messages_[kOutFramesMax];
};

}  // namespace headgate

#endif  // HEADGATE_ADDON_PACKET_SEND_H_
