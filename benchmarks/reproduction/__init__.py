"""Paired training runs with and without top-k, their measures and their report."""
