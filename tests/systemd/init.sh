#!/bin/sh
# Builds the test bed's root and becomes its PID 1, a real systemd. testbed.py starts it in namespaces of
# its own: sh init.sh SCRATCH PATH..., where SCRATCH is an empty directory to mount on and each PATH is a
# directory outside that must be seen inside at the same place (read-only).
set -eu
scratch=$1
shift

# The parent moves `unshare` out of this cgroup first: systemd can enable no controller on a cgroup that
# holds a process it cannot see.
read -r _go

mount -t tmpfs -o mode=755 testbed "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
[ -z "$SEED" ] || cp -a "$SEED/." "$scratch/upper/"
mount -t overlay testbed -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$root"

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys/net" "$root/proc/sys/net" # of its own network namespace; the rest is the machine's
mount --rbind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs"
mkdir "$root/sys/fs/cgroup" "$root/sys/fs/bpf"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t bpf -o mode=700 bpf "$root/sys/fs/bpf"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"

for path in "$@"; do
    mkdir -p "$root$path"
    mount --bind "$path" "$root$path"
    mount -o remount,bind,ro "$root$path"
done

# What writes outside the namespaces, needs hardware, or only costs time.
units=$root/etc/systemd/system
for unit in systemd-sysctl.service systemd-udevd.service systemd-udev-trigger.service \
    systemd-modules-load.service modprobe@.service kmod-static-nodes.service console-getty.service \
    getty.target systemd-networkd.service systemd-resolved.service systemd-timesyncd.service \
    systemd-random-seed.service systemd-hwdb-update.service ldconfig.service systemd-journal-flush.service systemd-journald-audit.socket \
    systemd-journal-catalog-update.service systemd-remount-fs.service dev-hugepages.mount dev-mqueue.mount \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
    proc-sys-fs-binfmt_misc.automount systemd-binfmt.service apparmor.service timers.target; do
    ln -sf /dev/null "$units/$unit"
done
cat >"$units/testbed.target" <<'UNIT'
[Unit]
Requires=basic.target dbus.service
After=basic.target dbus.service
AllowIsolate=yes
UNIT
# Where commands from outside run: a cgroup like a login session's.
cat >"$units/testbed-session.service" <<'UNIT'
[Unit]
DefaultDependencies=no
[Service]
ExecStart=/bin/sleep infinity
Delegate=yes
UNIT
: >"$root/etc/fstab"

cd "$root"
mkdir -p .outside
pivot_root . .outside
umount -l .outside
rmdir .outside
exec env -i container=pod PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=testbed.target --show-status=no </dev/null
