"""What is done with finished runs: tables, other averages, exports, predictions, reports over seeds."""
