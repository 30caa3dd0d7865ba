// Frames to groups.
#ifndef HEADGATE_ADDON_GROUPS_H_
#define HEADGATE_ADDON_GROUPS_H_

#include <errno.h>
#include <linux/if_packet.h>
#include <sys/socket.h>

#include <string>

#include "own.h"

namespace headgate {

// Has an interface take the frames of every group as long as the packet socket is open. A neighbour
// asks for an IPv6 address at a group of the address's own (solicited-node, RFC 4291 section 2.7.1),
// and a network card lets no group through that nobody has joined; the VIPs' groups change with the
// configuration, and are many where a VIP is a prefix.
inline Failure JoinGroups(int socket, int interface, const std::string& name) {
  packet_mreq request{};
  request.mr_ifindex = interface;
  request.mr_type = PACKET_MR_ALLMULTI;
  if (setsockopt(socket, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof request) != 0) {
    return {errno, "PACKET_ADD_MEMBERSHIP", name};
  }
  return {};
}

}  // namespace headgate

#endif  // HEADGATE_ADDON_GROUPS_H_
