"""What is tested on one GPU: run by `make gpu-test`. GPU_TESTS_ON_CPU=1 rehearses it without one."""
