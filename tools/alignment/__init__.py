"""How tools/align.py finds faces and brings them into place.

faces.py says what a found face is and which of several is taken, mtcnn.py and yunet.py find them,
landmark_files.py reads and writes their landmarks, photograph.py aligns one photograph in a worker process,
sheet.py draws the page of before and after.
"""
