"""What stands in for machines, clusters, servers, a kernel and libraries that a test does without."""
