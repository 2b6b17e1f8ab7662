"""The Replication Appliance: takes a job, snapshots, asks what changed, reads, seals, sends."""
