"""What a network costs: operations, memory, and on machines known by their data sheets, time."""
