// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What an isolated agent asks the kernel for is refused with EPERM: sockets of every family, also those handed to
 * it, bpf(2), and what would undo an isolation: leaving the cgroup, pins, other processes. What systemd does on the
 * agent's behalf in a process that is in the cgroup already, to start it again, is let through: it is named below.
 *
 * Judged by the cgroup of the process that asks, now, and so by no socket's history. Every program is called for
 * every process of the machine, and answers 0 for all that are not below a cgroup of wd_lsm_cgroups.
 *
 * These hooks' arguments are the kernel's own structures. Their numbers are used as they are; where a structure must
 * be read, it is read by bpf_probe_read_kernel() at the offset that the running kernel itself gives for the member
 * (kernel/btf.py), never at one of the headers we compile with. What cannot be read counts as not the exception.
 */
#include "wd.h"

#define WD_LSM_CGROUPS 4096 /* lsm.py: CGROUPS_MAX */
#define WD_LSM_DEPTHS 8     /* lsm.py: DEPTHS_MAX */

#define WD_LSM_PASS 0
#define WD_LSM_REFUSE (-1) /* -EPERM */

/* Where in this kernel's structures the members are, in bytes. kernel/btf.py finds them, in this order. */
struct wd_members {
        __u32 socket_file, socket_sk, sock_family, sock_type, sock_peer_pid, pid_numbers;
        __u32 file_mode, file_data, file_inode, inode_mode;
        __u32 file_path, path_dentry, dentry_parent, dentry_inode, inode_number, inode_sb, sb_magic;
        __u32 task_tgid, task_cgroups, css_set_cgroup;
        __u32 cgroup_kn, cgroup_level, cgroup_ancestors, kernfs_id;
};

struct wd_lsm_config {
        __u32 depths[WD_LSM_DEPTHS]; /* at how many levels below the root something is isolated; 0 is a free place */
        struct wd_members at;
};
_Static_assert(sizeof(struct wd_lsm_config) == 128, "lsm.py: DEPTHS, btf.py: MEMBERS");

/* Values of wd_lsm_cgroups. lsm.py: ISOLATED */
struct wd_lsm_isolated {
        __u32 depth;     /* of the cgroup, in levels below the root; for Python */
        __u32 isolation; /* the one that wants it: id of its wd_ingress; for Python */
};
_Static_assert(sizeof(struct wd_lsm_isolated) == 8, "lsm.py: ISOLATED");

BPF_ARRAY(wd_lsm_config, struct wd_lsm_config, 1);
BPF_HASH(wd_lsm_cgroups, __u64, struct wd_lsm_isolated, WD_LSM_CGROUPS); /* by cgroup id */
BPF_PERCPU_ARRAY(wd_lsm_count, __u64, 1); /* refusals, for all isolations together */

enum { /* <uapi/linux/magic.h>, and the kernel's own numbers, which have not changed since they are there */
        WD_CGROUP2_MAGIC = 0x63677270,
        WD_BPFFS_MAGIC = 0xcafe4a11,
        WD_FAMILY_UNIX = 1,
        WD_SOCKET_DGRAM = 2,
        WD_INIT = 1,                 /* the process that starts all others */
        WD_MODE_WRITE = 0x2,         /* FMODE_WRITE */
        WD_KIND_OF_FILE = 0170000,   /* S_IFMT */
        WD_SOCKET_FILE = 0140000,    /* S_IFSOCK */
        WD_TRACE_ATTACH = 0x2,       /* PTRACE_MODE_ATTACH */
        WD_NESTED = 16,              /* so many levels below its own cgroup an agent may write cgroup files */
};
#define WD_CLONE_INTO_OTHER_CGROUP 0x200000000ULL /* CLONE_INTO_CGROUP */

#define WD_LSM_INLINE static inline __attribute__((always_inline))

/* The isolated cgroup that the current process is in or below, and what is known of it; id 0: none. */
struct wd_lsm_held {
        __u64 id;
        __u32 depth;
};

WD_LSM_INLINE struct wd_lsm_config *lsm_config(void)
{
        int only = 0;

        return wd_lsm_config.lookup(&only);
}

WD_LSM_INLINE struct wd_lsm_held lsm_held(void)
{
        struct wd_lsm_held none = {}, found = {};
        struct wd_lsm_config *known = lsm_config();
        struct wd_lsm_isolated *isolated;

        if (!known)
                return none;
#pragma unroll
        for (int i = 0; i < WD_LSM_DEPTHS; i++) {
                if (!known->depths[i])
                        continue;
                found.id = bpf_get_current_ancestor_cgroup_id(known->depths[i]);
                isolated = wd_lsm_cgroups.lookup(&found.id);
                if (isolated) {
                        found.depth = known->depths[i];
                        return found;
                }
        }
        return none;
}

WD_LSM_INLINE int lsm_refuse(void)
{
        wd_lsm_count.atomic_increment(0);
        return WD_LSM_REFUSE;
}

WD_LSM_INLINE int lsm_refuse_if_held(void)
{
        struct wd_lsm_held by = lsm_held();

        return by.id ? lsm_refuse() : WD_LSM_PASS;
}

/* A pointer member, followed; 0 where there is nothing to follow or it cannot be read. */
WD_LSM_INLINE __u64 lsm_follow(__u64 base, __u32 offset)
{
        __u64 value = 0;

        if (base)
                bpf_probe_read_kernel(&value, sizeof(value), (void *)(base + offset));
        return value;
}

WD_LSM_INLINE __u32 lsm_number(__u64 base, __u32 offset)
{
        __u32 value = 0;

        if (base)
                bpf_probe_read_kernel(&value, sizeof(value), (void *)(base + offset));
        return value;
}

WD_LSM_INLINE __u16 lsm_half(__u64 base, __u32 offset)
{
        __u16 value = 0;

        if (base)
                bpf_probe_read_kernel(&value, sizeof(value), (void *)(base + offset));
        return value;
}

/* One of the pairs of datagram sockets over which systemd's own child reports to it before it becomes the agent
 * (whose user it is, which namespaces it shares). Nobody but process 1 is at the other end of such a pair. */
WD_LSM_INLINE int lsm_is_of_init(struct wd_members *at, __u64 sk)
{
        if (lsm_half(sk, at->sock_family) != WD_FAMILY_UNIX || lsm_half(sk, at->sock_type) != WD_SOCKET_DGRAM)
                return 0;
        return lsm_number(lsm_follow(sk, at->sock_peer_pid), at->pid_numbers) == WD_INIT;
}

/* Calls on a socket. One without a file is the kernel's own, and others may share it: a mounted NFS. */
WD_LSM_INLINE int lsm_judge_socket(__u64 socket)
{
        struct wd_lsm_config *known = lsm_config();
        struct wd_lsm_held by = lsm_held();

        if (!by.id || !known || !lsm_follow(socket, known->at.socket_file))
                return WD_LSM_PASS;
        return lsm_is_of_init(&known->at, lsm_follow(socket, known->at.socket_sk)) ? WD_LSM_PASS : lsm_refuse();
}

WD_LSM_INLINE __u64 lsm_magic_of(struct wd_lsm_config *known, __u64 inode)
{
        return lsm_follow(lsm_follow(inode, known->at.inode_sb), known->at.sb_magic);
}

/* int family, int type, int protocol, int kern. Not those that the kernel makes for itself: every new network namespace
 * begins with some, and a unit with PrivateNetwork= could not be started again. */
int wd_lsm_create(unsigned long long *ctx)
{
        return (int)ctx[3] ? WD_LSM_PASS : lsm_refuse_if_held();
}

/* struct socket *, and what the call has besides */
int wd_lsm_connect(unsigned long long *ctx)
{
        return lsm_judge_socket(ctx[0]);
}

int wd_lsm_bind(unsigned long long *ctx)
{
        return lsm_judge_socket(ctx[0]);
}

int wd_lsm_listen(unsigned long long *ctx)
{
        return lsm_judge_socket(ctx[0]);
}

int wd_lsm_accept(unsigned long long *ctx)
{
        return lsm_judge_socket(ctx[0]);
}

int wd_lsm_send(unsigned long long *ctx)
{
        return lsm_judge_socket(ctx[0]);
}

int wd_lsm_receive(unsigned long long *ctx)
{
        return lsm_judge_socket(ctx[0]);
}

int wd_lsm_option(unsigned long long *ctx)
{
        return lsm_judge_socket(ctx[0]);
}

/* struct file *, int mask: sendfile(2) and splice(2) on a socket come to no other hook, seen on 6.1 */
int wd_lsm_splice(unsigned long long *ctx)
{
        struct wd_lsm_config *known = lsm_config();
        struct wd_lsm_held by = lsm_held();
        __u64 file = ctx[0];

        if (!by.id || !known)
                return WD_LSM_PASS;
        if ((lsm_half(lsm_follow(file, known->at.file_inode), known->at.inode_mode) & WD_KIND_OF_FILE) != WD_SOCKET_FILE)
                return WD_LSM_PASS;
        return lsm_judge_socket(lsm_follow(file, known->at.file_data));
}

/* int cmd, union bpf_attr *, unsigned int size */
int wd_lsm_bpf(unsigned long long *ctx)
{
        return lsm_refuse_if_held();
}

/* struct task_struct *child, unsigned int mode. Also who takes another's socket by pidfd_getfd(2) comes here. */
int wd_lsm_ptrace(unsigned long long *ctx)
{
        return ctx[1] & WD_TRACE_ATTACH ? lsm_refuse_if_held() : WD_LSM_PASS;
}

/* Whether a task is in or below the isolated cgroup. */
WD_LSM_INLINE int lsm_is_below(struct wd_members *at, __u64 task, struct wd_lsm_held *by)
{
        __u64 cgroup = lsm_follow(lsm_follow(task, at->task_cgroups), at->css_set_cgroup);
        __u64 ancestor;

        if (!cgroup || lsm_number(cgroup, at->cgroup_level) < by->depth)
                return 0;
        ancestor = lsm_follow(cgroup, at->cgroup_ancestors + by->depth * sizeof(ancestor));
        return lsm_follow(lsm_follow(ancestor, at->cgroup_kn), at->kernfs_id) == by->id;
}

/* Argument `which` of a hook, where it may be NULL. Since Linux 6.5 the verifier takes a hook's pointers for anything
 * but NULL, and leaves out the branch for it: read from memory it is a number. What cannot be read is 0. */
WD_LSM_INLINE __u64 lsm_argument(unsigned long long *ctx, int which)
{
        __u64 value = 0;

        bpf_probe_read_kernel(&value, sizeof(value), ctx + which);
        return value;
}

/* struct task_struct *, struct kernel_siginfo *, int sig, const struct cred *. Signal 0 only asks. With credentials
 * the kernel sends it, in whose context ever. */
int wd_lsm_kill(unsigned long long *ctx)
{
        struct wd_lsm_config *known = lsm_config();
        struct wd_lsm_held by = lsm_held();
        __u64 task = ctx[0];

        if (!by.id || !known || !(int)ctx[2] || lsm_argument(ctx, 3))
                return WD_LSM_PASS;
        if (lsm_number(task, known->at.task_tgid) == bpf_get_current_pid_tgid() >> 32 || lsm_is_below(&known->at, task, &by))
                return WD_LSM_PASS;
        return lsm_refuse();
}

/* struct task_struct *, unsigned long clone_flags: a child that would begin in another cgroup */
int wd_lsm_fork(unsigned long long *ctx)
{
        return ctx[1] & WD_CLONE_INTO_OTHER_CGROUP ? lsm_refuse_if_held() : WD_LSM_PASS;
}

/* Whether a file is in the directory of the cgroup, or below. */
WD_LSM_INLINE int lsm_is_within(struct wd_members *at, __u64 dentry, __u64 cgroup_id)
{
#pragma unroll
        for (int i = 0; i < WD_NESTED; i++) {
                dentry = lsm_follow(dentry, at->dentry_parent);
                if (lsm_follow(lsm_follow(dentry, at->dentry_inode), at->inode_number) == cgroup_id)
                        return 1;
        }
        return 0;
}

/* struct file *: files of cgroups, to write: cgroup.procs. Those of its own cgroup lead nowhere else, and systemd's
 * child writes them when it is there already. */
int wd_lsm_open(unsigned long long *ctx)
{
        struct wd_lsm_config *known = lsm_config();
        struct wd_lsm_held by = lsm_held();
        __u64 file = ctx[0], dentry;

        if (!by.id || !known || !(lsm_number(file, known->at.file_mode) & WD_MODE_WRITE))
                return WD_LSM_PASS;
        dentry = lsm_follow(file, known->at.file_path + known->at.path_dentry);
        if (lsm_magic_of(known, lsm_follow(dentry, known->at.dentry_inode)) != WD_CGROUP2_MAGIC)
                return WD_LSM_PASS;
        return lsm_is_within(&known->at, dentry, by.id) ? WD_LSM_PASS : lsm_refuse();
}

/* A directory of the bpf file system: with its pin a link would be gone, and with the link an attachment. */
WD_LSM_INLINE int lsm_judge_pins(__u64 directory)
{
        struct wd_lsm_config *known = lsm_config();
        struct wd_lsm_held by = lsm_held();

        if (!by.id || !known)
                return WD_LSM_PASS;
        return lsm_magic_of(known, directory) == WD_BPFFS_MAGIC ? lsm_refuse() : WD_LSM_PASS;
}

/* struct inode *directory, struct dentry * */
int wd_lsm_unlink(unsigned long long *ctx)
{
        return lsm_judge_pins(ctx[0]);
}

/* struct inode *from, struct dentry *, struct inode *to, struct dentry * */
int wd_lsm_rename(unsigned long long *ctx)
{
        return lsm_judge_pins(ctx[0]);
}
