"""Commands on finished runs: tables, post-hoc averages, exports, predictions, and reports over seeds."""
