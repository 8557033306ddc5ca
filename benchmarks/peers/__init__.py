"""The runtimes that sdcomp is compared with, one file per runtime."""
