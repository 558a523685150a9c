"""Predicts how many bicycles are rented in Washington D.C. in an hour, from the calendar and the weather."""
