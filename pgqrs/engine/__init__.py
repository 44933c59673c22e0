"""The engine: executes, replays, stops and ends the runs of workflows."""
