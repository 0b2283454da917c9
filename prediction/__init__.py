"""A trained network on any video, and the activities it finds: what predict.py is made of."""
