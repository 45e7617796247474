"""Stage one: run the teacher once over every stored view and keep its outputs."""
