"""What the commands of ``look`` show; each is loaded by its command alone, since each command starts a process."""
