"""A job on its way to a cluster: manifests and scripts for batch systems, and Ray's job server.

``order`` says what is asked of the cluster. ``kuberay`` and ``slurm`` write it down, without a
connection to anything. ``jobserver`` sends it to a cluster of Ray with what ``parcel`` packs, and
``fetching`` copies results.
"""
