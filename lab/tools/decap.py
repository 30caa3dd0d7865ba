"""Takes tunnels off on a backend of the lab: IP in IP (protocols 4 and 41, RFC 2003, RFC 2473, RFC 4213) and
GUE variant 1 (draft-ietf-intarea-gue), over IPv4 and IPv6.

    decap.py DEVICE [GUE_PORT]

Makes the TUN device, prints "ready", and writes every inner packet into it as it came. It shares nothing
with `headgate decap`, so that each can tell whether the other is wrong. What it has seen goes to standard
output when it is ended: a line of JSON with packets by kind and faults of headers.
"""

import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
IPPROTO_IPIP, IPPROTO_IPV6 = 4, 41
UDP_NO_CHECK6_RX = 102
SO_RCVBUFFORCE = 33


def total(data):
    """Ones' complement sum of 16-bit words."""
    if len(data) % 2:
        data += b"\0"
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def open_tun(name):
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "up", "mtu", "65535"], check=True)
    subprocess.run(["sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0"], check=True)
    return tun


def open_sockets(port):
    """Each socket with what it gives: `ipv4` has the outer header in front, `ipv6` and `gue` have not."""
    sockets = {}
    for protocol in (IPPROTO_IPIP, IPPROTO_IPV6):
        sockets[socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)] = "ipv4"
        sockets[socket.socket(socket.AF_INET6, socket.SOCK_RAW, protocol)] = "ipv6"
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        udp = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # RFC 6936: a tunnel over IPv6 may go without a checksum where its receiver says so.
            udp.setsockopt(socket.IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)
        udp.bind((address, port))
        sockets[udp] = "gue"
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    return sockets


def main():
    tun = open_tun(sys.argv[1])
    sockets = open_sockets(int(sys.argv[2]) if len(sys.argv) > 2 else 6080)
    seen = {"ipip": 0, "gue": 0, "faults": 0, "largest": 0}
    sources = set()

    def end(*_):
        print(json.dumps({**seen, "sources": len(sources)}), flush=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    print("ready", flush=True)
    while True:
        for each in select.select(list(sockets), [], [])[0]:
            data, peer = each.recvfrom(65535)
            kind = sockets[each]
            # The kernel has put fragments together.
            inner = data[(data[0] & 15) * 4 :] if kind == "ipv4" else data
            if kind == "gue":
                seen["gue"] += 1
                sources.add(peer[1])
            else:
                seen["ipip"] += 1
            version = inner[0] >> 4 if len(inner) >= 20 else 0
            if kind == "ipv4" and (total(data[:20]) != 0xFFFF or (version == 4 and data[1] != inner[1])):
                seen["faults"] += 1
            if version not in (4, 6) or (version == 4 and total(inner[: (inner[0] & 15) * 4]) != 0xFFFF):
                seen["faults"] += 1
                continue
            seen["largest"] = max(seen["largest"], len(inner))
            os.write(tun, inner)


main()
