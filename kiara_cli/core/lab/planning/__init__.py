"""What a training costs before it starts: parameters, memory, operations, time, energy, money."""
