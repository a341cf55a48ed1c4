"""What runs and evaluations leave behind for people: pages that need nothing else, and the look of pictures.

style.py       colours and lines that all pictures share
page.py        an HTML page: tables, notes, pictures, faces
curves.py      curves over the steps: curves.png, and a chart each for a page
run_files.py   what the folder of a run holds
run_page.py    report.html of one run
comparison.py  several runs beside one another
mirrors.py     where the numbers of a run go besides: TensorBoard, Weights & Biases
"""
