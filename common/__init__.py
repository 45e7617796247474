"""What both stages share; knows neither stage."""
