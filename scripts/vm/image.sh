# Sourced by scripts/vm-test: the disk image of a Debian release, with all that scripts/setup installs already in it, so
# that the machine needs no network. Needs no loop device. Mirrors, proxies and certificates are this machine's own.
# shellcheck shell=bash

readonly IMAGE_SIZE=6G
# What a machine has anyway, and what boots it; the rest is what scripts/setup names.
readonly MACHINE_PACKAGES=(systemd systemd-sysv dbus udev kmod iproute2 netbase linux-image-cloud-amd64
    linux-headers-cloud-amd64)
readonly WHEELS=/var/cache/wheels
readonly WHEEL_PLATFORMS=(manylinux_2_28 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1)

# The archive that this machine's apt uses for Debian.
mirror() {
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -F '|' '$1 == "Debian" && $2 == "Debian" { print $3; exit }'
}

image_packages() {
    printf '%s\n' "${MACHINE_PACKAGES[@]}"
    sed -n 's/^readonly \(TEST_\)\?PACKAGES=(\(.*\))$/\2/p' "$PROJECT/scripts/setup" | tr ' ' '\n'
}

python_packages() {
    python3 - "$PROJECT/setup.cfg" <<'END'
import configparser
import sys

settings = configparser.ConfigParser()
settings.read(sys.argv[1])
print(settings["options"]["install_requires"].strip(), settings["options.extras_require"]["test"].strip(), "wheel", sep="\n")
END
}

image_key() {
    { cat "$VM_PARTS/image.sh" "$VM_PARTS/vm-test.service"; image_packages; python_packages; } | sha256sum | cut -c 1-64
}

# ensure_image RELEASE: $cache/RELEASE.img, .vmlinuz and .initrd. Two minutes where they are not there.
ensure_image() {
    local release=$1 root=$work/root
    if [[ $(cat "$cache/$release.key" 2>/dev/null) == "$(image_key)" ]]; then return; fi
    echo "Making the disk image of $release in $cache (a few minutes; noisy output in $cache/$release.log)"
    rm -f "$cache/$release.key"
    make_image "$release" "$root" >"$cache/$release.log" 2>&1 || {
        tail -n 15 "$cache/$release.log" | cut -c 1-160 | sed 's/^/  | /' >&2
        return 1
    }
    rm -rf --one-file-system "$root"
    image_key >"$cache/$release.key"
}

# Called where bash ignores `set -e`: every step says so itself.
make_image() {
    local release=$1 root=$2 from packages
    from=$(mirror)
    packages=$(image_packages | sort -u | paste -sd ,)
    nice -n 19 debootstrap --variant=minbase --include="$packages" "$release" "$root" \
        "${from:-http://deb.debian.org/debian}" &&
        collect_wheels "$root" &&
        configure_machine "$root" &&
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* &&
        cp "$root"/boot/vmlinuz-* "$cache/$release.vmlinuz" &&
        cp "$root"/boot/initrd.img-* "$cache/$release.initrd" &&
        rm -f "$cache/$release.img" &&
        mke2fs -q -t ext4 -E root_owner=0:0 -d "$root" "$cache/$release.img" "$IMAGE_SIZE"
}

# The Python packages that set-up installs, for the Python of the image.
collect_wheels() {
    local root=$1 python platforms=()
    python=$(basename "$(find "$root/usr/bin" -name 'python3.[0-9]*' | head -n 1)")
    mapfile -t platforms < <(printf -- '--platform=%s_x86_64\n' "${WHEEL_PLATFORMS[@]}")
    python_packages >"$work/requirements"
    python3 -m venv --clear "$work/pip" &&
        "$work/pip/bin/pip" download -q -d "$root$WHEELS" --only-binary :all: --implementation cp \
            --python-version "${python#python}" "${platforms[@]}" -r "$work/requirements" &&
        printf '[global]\nno-index = true\nfind-links = %s\ndisable-pip-version-check = true\n' "$WHEELS" \
            >"$root/etc/pip.conf"
}

configure_machine() {
    local root=$1
    echo watchdog-vm >"$root/etc/hostname"
    printf '127.0.0.1 localhost watchdog-vm\n' >"$root/etc/hosts"
    printf '/dev/vda / ext4 defaults 0 1\n' >"$root/etc/fstab"
    install -m 0644 "$VM_PARTS/vm-test.service" "$root/etc/systemd/system/vm-test.service" &&
        systemctl --quiet --root="$root" enable vm-test.service &&
        systemctl --quiet --root="$root" mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer \
            apt-daily-upgrade.timer
}
