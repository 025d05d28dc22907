// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * /dev/net/tun, and the taps of macvtap and ipvtap, by their numbers, whatever their names: opening one is refused with
 * EPERM. What is open already stays open. Judged by the process's cgroup.
 */
#include "wd.h"

#define WD_TAP_MAJORS 16 /* there are two kinds */

/* Majors that the kernel has given to taps. watchdog/kernel/taps.py packs both key and value. */
BPF_HASH(wd_tap_majors, __u32, __u32, WD_TAP_MAJORS);
BPF_PERCPU_ARRAY(wd_devices, __u64, 1); /* opens refused, for all isolations together */

enum {
        DEVICE_TYPE_BITS = 0xffff, /* the rest of access_type is what is wanted of it */
        TUN_MAJOR = 10,            /* MISC_MAJOR */
        TUN_MINOR = 200,           /* TUN_MINOR */
};

int wd_device(struct bpf_cgroup_dev_ctx *wanted)
{
        __u32 type = wanted->access_type & DEVICE_TYPE_BITS, major = wanted->major;
        int is_tun = major == TUN_MAJOR && wanted->minor == TUN_MINOR;

        if (type != BPF_DEVCG_DEV_CHAR || (!is_tun && !wd_tap_majors.lookup(&major)))
                return WD_PASS;
        wd_devices.atomic_increment(0);
        return WD_REFUSE;
}
