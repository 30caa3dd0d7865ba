"""Takes IP-in-IP and GUE off for a backend of the lab, as a second opinion beside `headgate decap`.

    decap.py DEVICE [GUE_PORT]

Makes the TUN device, prints "ready", and writes every inner packet into it. What it has seen goes to
standard output when it is ended: a line of JSON with packets by kind and faults of outer headers.
"""
import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 1, 0x1000


def total(data):
    """Ones' complement sum of 16-bit words."""
    if len(data) % 2:
        data += b"\0"
    value = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while value > 0xFFFF:
        value = (value & 0xFFFF) + (value >> 16)
    return value


def main():
    name = sys.argv[1]
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 6080
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    ipip = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)
    gue = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    gue.bind(("0.0.0.0", port))
    for each in (ipip, gue):
        each.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    seen = {"ipip": 0, "gue": 0, "faults": 0, "largest": 0, "sources": []}
    sources = set()

    def end(*_):
        seen["sources"] = len(sources)
        print(json.dumps(seen), flush=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    os.system(f"ip link set {name} up mtu 65535")
    print("ready", flush=True)
    while True:
        for each in select.select([ipip, gue], [], [])[0]:
            data, peer = each.recvfrom(65535)
            if each is ipip:
                inner = data[20:]
                seen["ipip"] += 1
                if total(data[:20]) != 0xFFFF or data[1] != inner[1]:
                    seen["faults"] += 1
            else:
                inner = data
                seen["gue"] += 1
                sources.add(peer[1])
            if total(inner[: (inner[0] & 15) * 4]) != 0xFFFF:
                seen["faults"] += 1
            seen["largest"] = max(seen["largest"], len(inner))
            os.write(tun, inner)


main()
