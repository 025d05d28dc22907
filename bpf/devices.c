// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * /dev/net/tun, by its number, whatever its name: opening it is refused with EPERM. What is open already stays open.
 * Judged by the process's cgroup.
 */
#include "wd.h"

BPF_PERCPU_ARRAY(wd_devices, __u64, 1); /* opens refused, for all isolations together */

enum {
        DEVICE_TYPE_BITS = 0xffff, /* the rest of access_type is what is wanted of it */
        TUN_MAJOR = 10,            /* MISC_MAJOR */
        TUN_MINOR = 200,           /* TUN_MINOR */
};

int wd_device(struct bpf_cgroup_dev_ctx *wanted)
{
        __u32 type = wanted->access_type & DEVICE_TYPE_BITS;

        if (type != BPF_DEVCG_DEV_CHAR || wanted->major != TUN_MAJOR || wanted->minor != TUN_MINOR)
                return WD_PASS;
        wd_devices.atomic_increment(0);
        return WD_REFUSE;
}
