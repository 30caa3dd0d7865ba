"""Takes tunnels off on a backend: IP in IP (protocols 4 and 41, RFC 2003, RFC 2473, RFC 4213) and GUE
variant 1 (draft-ietf-intarea-gue, port 6080), over IPv4 and IPv6.

    python3 decap.py [PORT]

The packet inside goes into a TUN device as it came. It is the lab's own, and shares nothing with
`headgate decap`, so that each can tell whether the other is wrong. Prints "ready"; runs until ended.
"""

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000
IPPROTO_IPIP, IPPROTO_IPV6 = 4, 41


def open_tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    subprocess.run(["sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0"], check=True)
    return fd


def inner_of(sock, kind):
    """The packet inside what the socket has received."""
    data = sock.recv(65536)
    if kind == "ipv4":
        # A raw IPv4 socket gives the outer header as well; the kernel has put fragments together.
        return data[(data[0] & 15) * 4 :]
    return data


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 6080
    tun = open_tun("decap0")
    sockets = {}
    for protocol in (IPPROTO_IPIP, IPPROTO_IPV6):
        sockets[socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)] = "ipv4"
        sockets[socket.socket(socket.AF_INET6, socket.SOCK_RAW, protocol)] = "ipv6"
    # RFC 6936: a tunnel over IPv6 may go without a checksum where its receiver says so.
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        udp = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            udp.setsockopt(socket.IPPROTO_UDP, 102, 1)  # UDP_NO_CHECK6_RX
        udp.bind((address, port))
        sockets[udp] = "gue"
    print("ready", flush=True)
    while True:
        for sock in select.select(list(sockets), [], [])[0]:
            packet = inner_of(sock, sockets[sock])
            if len(packet) >= 20 and packet[0] >> 4 in (4, 6):
                try:
                    os.write(tun, packet)
                except OSError:
                    pass  # no packet after all


main()
