"""The kernel: cgroups, BPF programs and their attachments. One door per foreign thing."""
