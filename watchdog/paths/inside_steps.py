"""What a script may hold, one method a step; part of inside.py, standard library only."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from typing import Any

from watchdog.paths.inside_xdp import AF_XDP, XdpSender, register_memory

KINDS = {
    "tcp4": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM, 0),
    "mptcp4": (socket.AF_INET, socket.SOCK_STREAM, 262),
    "udp4": (socket.AF_INET, socket.SOCK_DGRAM, 0),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM, 0),
    "ping4": (socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "icmp4": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "icmp6": (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    "ip4": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
    "packet": (socket.AF_PACKET, socket.SOCK_RAW, 0),
    "xdp": (AF_XDP, socket.SOCK_RAW, 0),
    "vsock": (socket.AF_VSOCK, socket.SOCK_STREAM, 0),
    "usersock": (socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_USERSOCK),
    "unix_stream": (socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "unix_dgram": (socket.AF_UNIX, socket.SOCK_DGRAM, 0),
}

OTHERS = {
    "TIPC": (30, socket.SOCK_RDM, 0),
    "CAN_RAW": (29, socket.SOCK_RAW, 1),
    "L2CAP": (31, socket.SOCK_SEQPACKET, 0),
    "RDS": (21, socket.SOCK_SEQPACKET, 0),
    "SMC": (43, socket.SOCK_STREAM, 0),
    "KCM": (41, socket.SOCK_DGRAM, 0),
    "QIPCRTR": (42, socket.SOCK_DGRAM, 0),
}
"""Of other families, by the name in /proc/net/protocols: asking for one that is not there would load a module."""
PROTOCOLS = "/proc/net/protocols"

LINGER_NOT = struct.pack("ii", 1, 0)
"""struct linger: on, for 0 s."""

SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
CLONE_NEWNET = 0x40000000
TUN_DEVICE = "/dev/net/tun"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_DATA_BYTES = 24
"""Twice effective, permitted, inheritable: the low 32 bits, then the high ones."""
PR_SET_KEEPCAPS = 8
BPF_PROG_GET_NEXT_ID = 11
BPF_SYSCALLS = {"x86_64": 321, "aarch64": 280, "ppc64le": 361, "s390x": 351, "riscv64": 280}

NLMSG, TCMSG = struct.Struct("=IHHII"), struct.Struct("=B3xi12x")
"""struct nlmsghdr: length, type, flags, sequence, port; struct tcmsg: family, link, and what we do not say."""
RTM_DELQDISC, REQUEST_ACK, NO_LINK = 37, 0x5, 0x7FFFFFFF
ANSWER_BYTES, ANSWER_TIMEOUT_S = 4096, 1.0

BACKLOG = 64
UNIX_MODE = 0o777
"""Who may reach a socket is decided by the folder it is in."""

_PENDING = {errno.EINPROGRESS, errno.EAGAIN}

Address = Any
"""As Python's socket module wants it; lists are tuples, and a unix name that begins with @ is abstract."""


class Steps:
    """What a script may hold: the first word is a method, the others its arguments. Each raises OSError."""

    def __init__(self) -> None:
        self.sockets: dict[str, socket.socket] = {}
        self.ports: dict[str, int] = {}
        self._files: dict[str, int] = {}
        self._xdp: dict[str, XdpSender] = {}

    def make(self, name: str, kind: str) -> None:
        """Make a socket; one that had the name before is closed, also where none can be made."""
        self.close(name)
        self._keep(name, socket.socket(*KINDS[kind]))
        reset_on_close(self.sockets[name])

    def make_other(self, name: str) -> None:
        """Make a socket of another family that the kernel has loaded."""
        with open(PROTOCOLS, encoding="ascii", errors="replace") as listed:  # noqa: PTH123 -- as in bind
            loaded = [OTHERS[word] for line in listed if (word := line.split(maxsplit=1)[0]) in OTHERS]
        if not loaded:
            raise OSError(errno.EAFNOSUPPORT, "none of them is loaded")
        self.close(name)
        self._keep(name, socket.socket(*loaded[0]))

    def close(self, name: str) -> None:
        """Close a socket or a descriptor; none is success."""
        if name in self.sockets:
            self.sockets.pop(name).close()
        if name in self._files:
            os.close(self._files.pop(name))

    def bind(self, name: str, address: Address) -> None:
        """Bind a socket; "ports" tells which. Unix sockets are made for everybody to use."""
        self.sockets[name].bind(_plain(address))
        if self.sockets[name].family in {socket.AF_INET, socket.AF_INET6}:
            self.ports[name] = self.sockets[name].getsockname()[1]
        if isinstance(address, str) and not address.startswith("@"):
            os.chmod(address, UNIX_MODE)  # noqa: PTH101 -- pathlib takes as long to import as all the rest

    def bind_near(self, name: str, address: str, ports: list[int]) -> None:
        """Bind to the first of these ports that nobody has."""
        for port in ports[:-1]:
            try:
                return self.bind(name, [address, port])
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        return self.bind(name, [address, ports[-1]])

    def listen(self, name: str) -> None:
        """Listen."""
        self.sockets[name].listen(BACKLOG)

    def connect(self, name: str, address: Address) -> None:
        """Begin to connect; "await" tells how it ended."""
        code = self.sockets[name].connect_ex(_plain(address))
        if code not in {0, *_PENDING}:
            raise OSError(code, os.strerror(code))

    def dial(self, name: str, address: Address, timeout_s: float) -> None:
        """Connect and wait for it."""
        self.sockets[name].settimeout(timeout_s)
        try:
            self.sockets[name].connect(_plain(address))
        finally:
            self.sockets[name].setblocking(False)

    def accept(self, listener: str, name: str, timeout_s: float) -> None:
        """Wait for one connection and keep it: the last one, where several wait."""
        listening = self.sockets[listener]
        listening.settimeout(timeout_s)
        try:
            self.close(name)
            self._keep(name, listening.accept()[0])
            listening.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while newer := listening.accept()[0]:
                    self.close(name)
                    self._keep(name, newer)
            reset_on_close(self.sockets[name])
        finally:
            listening.setblocking(False)

    def send(self, name: str, data: str, address: Address = None) -> None:
        """Send hexadecimal data, to an address where one is given."""
        payload = bytes.fromhex(data)
        if address is None:
            self.sockets[name].send(payload)
        else:
            self.sockets[name].sendto(payload, _plain(address))

    def join(self, name: str, group: str, device: str) -> None:
        """Become a member of a multicast group on a link."""
        self._membership(name, group, device, socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP)

    def join_may(self, name: str, group: str, device: str) -> None:
        """Leave a group that it is not in: whoever may join one is told so, and nothing changes."""
        try:
            self._membership(name, group, device, socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise

    def _membership(self, name: str, group: str, device: str, option_v4: int, option_v6: int) -> None:
        sock, index = self.sockets[name], struct.pack("=I", socket.if_nametoindex(device))
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, option_v6, socket.inet_pton(socket.AF_INET6, group) + index)
        else:
            sock.setsockopt(socket.IPPROTO_IP, option_v4, socket.inet_aton(group) + bytes(4) + index)

    def bypass(self, name: str) -> None:
        """Have a packet socket's frames leave past the queueing layer."""
        self.sockets[name].setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)

    def pass_over(self, name: str, over: str) -> None:
        """Hand a socket to the process at the other end of a unix connection."""
        rights = array.array("i", [self.sockets[name].fileno()])
        self.sockets[over].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def take(self, name: str, over: str, timeout_s: float) -> None:
        """Receive a socket that was handed over: the last one, where several wait."""
        self.close(name)
        self.sockets[over].settimeout(timeout_s)
        try:
            fds = self._received(over)
            self.sockets[over].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while newer := self._received(over):
                    os.close(fds.pop())
                    fds = newer
        finally:
            self.sockets[over].setblocking(False)
        if not fds:
            raise OSError(errno.EBADMSG, "nothing was handed over")
        self._keep(name, socket.socket(fileno=fds[0]))

    def _received(self, over: str) -> list[int]:
        return socket.recv_fds(self.sockets[over], 1, 1)[1]

    def xdp_memory(self, name: str) -> None:
        """The first step to set up an AF_XDP socket, which touches no device."""
        register_memory(self.sockets[name])

    def xdp_bind(self, name: str, device: str, queue: int) -> None:
        """Bind an AF_XDP socket to one queue of a device."""
        self._xdp[name] = XdpSender(self.sockets[name], device, queue)

    def xdp_send(self, name: str, frame: str) -> None:
        """Send one frame through it."""
        self._xdp[name].send(bytes.fromhex(frame))

    def tun_open(self, name: str) -> None:
        """Open the TUN device, and make no interface."""
        self.close(name)
        self._files[name] = os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)

    def tun_may(self, name: str) -> None:
        """Ask for an interface that is neither kind: whoever may make one is told that it is none, and makes none."""
        try:
            fcntl.ioctl(self._files[name], TUNSETIFF, struct.pack("16sH22x", b"", 0))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def tun_attach(self, name: str, device: str) -> None:
        """Become the other side of a TUN interface that is there."""
        request = struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI)
        fcntl.ioctl(self._files[name], TUNSETIFF, request)

    def tun_send(self, name: str, packet: str) -> None:
        """Have an IP packet arrive from that interface."""
        os.write(self._files[name], bytes.fromhex(packet))

    def ask_bpf(self) -> None:
        """Ask for the first BPF program: who may do that may take programs off as well."""
        number = BPF_SYSCALLS.get(os.uname().machine)
        if number is None:
            raise OSError(errno.ENOSYS, "the number of bpf(2) is not known for this machine")
        request = ctypes.create_string_buffer(struct.pack("=III", 0, 0, 0))
        _checked(_libc().syscall(number, BPF_PROG_GET_NEXT_ID, request, len(request)))

    def ask_links(self) -> None:
        """Ask that the queueing of a link that is not there be taken off: who may do that may take filters off, too."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asking:
            asking.settimeout(ANSWER_TIMEOUT_S)
            asking.send(NLMSG.pack(NLMSG.size + TCMSG.size, RTM_DELQDISC, REQUEST_ACK, 1, 0) + TCMSG.pack(0, NO_LINK))
            (code,) = struct.unpack_from("=i", asking.recv(ANSWER_BYTES), NLMSG.size)
        if -code != errno.ENODEV:
            raise OSError(-code, os.strerror(-code))

    def new_netns(self) -> None:
        """Go into a network namespace of its own."""
        _checked(_libc().unshare(CLONE_NEWNET))

    def enter_netns(self, path: str) -> None:
        """Go into the network namespace at /proc/PID/ns/net."""
        with open(path, "rb") as namespace:  # noqa: PTH123 -- as in bind
            _checked(_libc().setns(namespace.fileno(), CLONE_NEWNET))

    def write(self, path: str, text: str) -> None:
        """Write to a file of /proc/sys or a cgroup."""
        with open(path, "w") as file:  # noqa: PTH123 -- as in bind
            file.write(text)

    def become(self, uid: int, gid: int) -> None:
        """Be that user, and keep the capabilities until `keep_only`."""
        _checked(_libc().prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)

    def keep_only(self, capabilities: int) -> None:
        """Have no other capabilities than those of ours that are in the bit mask."""
        header, own = struct.pack("=Ii", LINUX_CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(CAP_DATA_BYTES)
        _checked(_libc().capget(header, own))
        permitted = struct.unpack_from("=6I", own.raw)
        low, high = capabilities & permitted[1], capabilities >> 32 & permitted[4]
        _checked(_libc().capset(header, struct.pack("=6I", low, low, 0, high, high, 0)))

    def _keep(self, name: str, made: socket.socket) -> None:
        made.setblocking(False)
        self.sockets[name] = made


def reset_on_close(sock: socket.socket) -> None:
    """No connection of ours stays behind in TIME-WAIT."""
    if sock.family in {socket.AF_INET, socket.AF_INET6} and sock.type == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)


def _plain(address: Address) -> Address:
    """JSON knows no tuples and no zero bytes."""
    if isinstance(address, str):
        return "\0" + address[1:] if address.startswith("@") else address
    return tuple(address)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
