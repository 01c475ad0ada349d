"""Sends a job to a cluster: manifests and scripts for batch systems, and Ray's job server.

``order`` has what a job needs of a cluster. ``kuberay`` and ``slurm`` write it as a manifest or
script, without any connection. ``jobserver`` sends it to a Ray cluster, with the files from
``parcel``. ``fetching`` copies results.
"""
