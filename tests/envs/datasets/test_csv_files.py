from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torso.envs import Splits, load_dataset
from torso.envs.datasets.csv_files import read_csv_inputs
from torso.errors import ConfigError, DatasetError

FLOWERS = [
    (length, width, species)
    for row in range(12)
    for length, width, species in ((1.5 + row, 0.25, "iris"), (30.0 - row, 1 + row, "rose"))
]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def flowers(**changes) -> str:
    lines = ["length,width,species", *(",".join(map(str, row)) for row in FLOWERS)]
    for number, line in changes.items():
        lines[int(number.removeprefix("line")) - 1] = line
    return "\n".join(lines) + "\n"


def whole(splits: Splits) -> tuple[np.ndarray, np.ndarray]:
    """All rows, in no particular order, sorted."""
    inputs, labels = (np.concatenate([getattr(part, name) for part in splits]) for name in ("inputs", "labels"))
    order = np.lexsort(inputs.T[::-1])
    return inputs[order], labels[order]


def test_a_table_with_a_column_of_classes(tmp_path: Path):
    splits = load_dataset(write(tmp_path / "flowers.csv", flowers()))
    for split in splits:
        assert (split.task, split.label_names, split.feature_names) == (
            "classification",
            ("iris", "rose"),
            ("length", "width"),
        )
        assert (split.name, split.image, split.inputs.dtype) == (str(tmp_path / "flowers.csv"), None, np.float32)
        for (length, _), label in zip(split.inputs, split.labels, strict=True):
            assert label == (length > 15)
    # 12 rows of each class: of the first ten seven train, one validates, two test; the last two train
    assert splits.validation.inputs[:, 0].tolist() == [8.5, 23.0]
    assert splits.test.inputs[:, 0].tolist() == [9.5, 22.0, 10.5, 21.0]
    assert [len(split) for split in splits] == [18, 2, 4]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_dialects(tmp_path: Path, delimiter: str, newline: str, mark: str):
    text = mark + flowers().replace(",", delimiter).replace("\n", newline) + newline
    for expected, split in zip(
        load_dataset(write(tmp_path / "a.csv", flowers())), load_dataset(write(tmp_path / "b.CSV", text)), strict=True
    ):
        np.testing.assert_array_equal(split.inputs, expected.inputs)
        np.testing.assert_array_equal(split.labels, expected.labels)
        assert (split.feature_names, split.label_names) == (expected.feature_names, expected.label_names)


def test_quoted_cells_and_spaces(tmp_path: Path):
    rows = "".join(f'{k}.5 , "a, b; c"\n {k}e1,"d ""x"""\n' for k in range(1, 4))
    splits = load_dataset(write(tmp_path / "q.csv", f'"the length, in cm", label \n{rows}'))
    assert splits.train.feature_names == ("the length, in cm",)
    assert splits.train.label_names == ("a, b; c", 'd "x"')
    assert whole(splits)[0][:, 0].tolist() == [1.5, 2.5, 3.5, 10, 20, 30]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("10", "2"), (2, 10)),
        (("1", "-1"), (-1, 1)),
        (("01", "2"), ("01", "2")),
        (("x10", "x9"), ("x9", "x10")),
        (("1", "b"), ("1", "b")),
        (("1.0", "2.0"), ("1.0", "2.0")),
        (("True", "False"), ("False", "True")),
        (("NA", "none"), ("NA", "none")),
    ],
)
def test_names_of_classes(tmp_path: Path, labels: tuple[str, str], names: tuple):
    text = "x,y\n" + "".join(f"{k},{labels[k % 2]}\n" for k in range(6))
    splits = load_dataset(write(tmp_path / "t.csv", text))
    assert splits.train.label_names == names
    assert whole(splits)[1].tolist() == [names.index(type(names[0])(labels[k % 2])) for k in range(6)]


@pytest.mark.parametrize(
    ("header", "asked", "expected"),
    [
        ("a,b,c", None, "c"),
        ("a,Label,c", None, "Label"),
        ("TARGET,b,c", None, "TARGET"),
        ("a,species,c", None, "species"),
        ("a,class,c", "a", "a"),
        ("a,b,c", ["b"], "b"),
    ],
)
def test_which_column_holds_the_labels(tmp_path: Path, header: str, asked, expected: str):
    text = header + "\n" + "".join(f"{k % 2},{(k + 1) % 2},{k // 3}\n" for k in range(6))
    train = load_dataset(write(tmp_path / "t.csv", text), label_column=asked).train
    assert train.feature_names == tuple(column for column in header.split(",") if column != expected)


def test_classes_keep_a_part(tmp_path: Path):
    text = "x,y\n" + "".join(f"{k},{k % 3}\n" for k in range(30)) + "77,rare\n"
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(DatasetError, match=r"got 1 row of class 'rare'"):
        load_dataset(path)
    splits = load_dataset(path, classes=["2", "0"])
    assert splits.train.label_names == ("2", "0")
    assert [len(split) for split in splits] == [14, 2, 4]
    assert (splits.test.inputs[:, 0] % 3).tolist() == [0, 2, 0, 2]
    assert splits.test.labels.tolist() == [1, 0, 1, 0]


# numbers to predict


def test_numbers_to_predict(tmp_path: Path):
    text = "x,price,size\n" + "".join(f"{k},{k}.5,{2 * k}\n" for k in range(20))
    path = write(tmp_path / "t.csv", text)
    splits = load_dataset(path, label_column="price")
    assert (splits.train.task, splits.train.label_names) == ("regression", ("price",))
    assert splits.train.feature_names == ("x", "size")
    assert splits.test.labels.dtype == np.float32
    assert splits.test.labels.tolist() == [[8.5], [9.5], [18.5], [19.5]]
    assert splits.validation.inputs.tolist() == [[7, 14], [17, 34]]
    several = load_dataset(path, label_column=["size", "price"])
    assert several.train.label_names == ("size", "price")
    assert several.test.labels.tolist() == [[16, 8.5], [18, 9.5], [36, 18.5], [38, 19.5]]
    # whole numbers are classes, unless the task overrides
    assert load_dataset(path, label_column="size", task="regression").test.labels[0].tolist() == [16]
    with pytest.raises(DatasetError, match=r"got 1 row of class 0 \(20 of 20 classes .* task='regression'"):
        load_dataset(path, label_column="size")
    with pytest.raises(DatasetError, match=r"got 1 row of class '0.5'"):
        load_dataset(path, label_column="price", task="classification")
    with pytest.raises(ConfigError, match="label_column must be one column for a classification, got 'size', 'price'"):
        load_dataset(path, label_column=["size", "price"], task="classification")
    with pytest.raises(ConfigError, match="has numbers to predict and no classes"):
        load_dataset(path, label_column="price", classes=["0.5", "1.5"])


def test_text_cannot_be_predicted(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"column 'species', a column to predict, got 'iris' in row 1 \(line 2\)"):
        load_dataset(write(tmp_path / "t.csv", flowers()), task="regression")


# mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have a header and rows, got an empty file"),
        ("\n", "must have a header and rows, got an empty file"),
        ("a,b\n", "must have rows below the header, got none"),
        ("a,b,y\n1,2,1.0\n3,4,1\n", "must have labels written in one way, got '1' and '1.0', which are one number"),
        ("1,2\n3,4\n", "must have column names in the first line, got numbers: '1', '2'"),
        (",b,y\n0,1,2\n", r"must have a name for each column, got none for column 1; .*to_csv\(..., index=False\)"),
        ("a,b,a\n0,1,2\n", "must have each column name once, got more of 'a'"),
        ("y\n1\n", "must have feature columns beside the labels' 'y', got none"),
        (
            "label,a,target\n0,1,2\n",
            "must have one column that may hold the labels, got 'label', 'target'; name the one that does",
        ),
        (flowers(line4="1,2"), "must have 3 cells in line 4, as in the header, got 2"),
        (flowers(line4="1,2,rose,9"), "must have 3 cells in line 4, as in the header, got 4"),
        (flowers(line4=",2,rose"), r"must have no missing values, got 1 in column 'length', in row 3 \(line 4\); fill"),
        (
            flowers(line4=",2,rose", line6="1,NaN,rose", line9=" ?,2,iris"),
            r"must have no missing values, got 2 in column 'length', first in row 3 .*, and 1 in column 'width', in",
        ),
        (
            flowers(line4="1,2,"),
            r"must have no missing values, got 1 in column 'species', in row 3 \(line 4\); drop those rows",
        ),
        (
            flowers(line4="long,2,rose"),
            r"must have numbers in column 'length', a feature, got 'long' in row 3 \(line 4\); drop the column, or enc",
        ),
        (flowers(line4='"1,5",2,rose'), r"got '1,5' in row 3 \(line 4\); write decimals with a point"),
        (flowers(line4="1_0,2,rose"), "got '1_0' in row 3"),
        (flowers(line4="1,-inf,rose"), "must have finite float32 numbers in column 'width', got '-inf' in row 3"),
        (flowers(line4="1e39,2,rose"), "must have finite float32 numbers in column 'length', got '1e39' in row 3"),
        ("a,y\n1,p\n2,p\n3,p\n", "must have at least 2 classes, got only 'p'"),
        ("a,y\n1,p\n2,q\n3,p\n4,p\n", "of each class, got 1 row of class 'q'"),
        ('a,y\n1,"p\n', r"must be CSV, got other text \(unexpected end of data\); is a quotation mark left open"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str):
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(DatasetError, match=message) as caught:
        load_dataset(path)
    assert str(path) in str(caught.value)


def test_constant_columns_are_worth_a_note(tmp_path: Path):
    train = load_dataset(write(tmp_path / "t.csv", "a,b,c,y\n" + "1,2,3,p\n1,4,3,q\n1,5,3,p\n1,7,3,q\n" * 2)).train
    assert train.inputs.shape[1] == 3
    assert "constant columns, of no use: 'a', 'c'" in train.notes


# the first line


@pytest.mark.parametrize(
    ("first", "header", "taken"),
    [
        ("5.5,0.5,iris", "auto", False),  # as the rows below
        ("5.5,?,iris", "auto", False),
        ("5.5,0.5,Wild iris", "auto", False),
        ("length,width,kind", "auto", True),
        ("1,2,species", "auto", True),
        ("length,2,kind", "auto", True),
        ("1,2,kind", "yes", True),
        ("1,2,3", "yes", True),
    ],
)
def test_a_first_line_is_names_or_data(tmp_path: Path, first: str, header, taken: bool):
    rows = "".join(f"{k}.5,{12 - k},{'iris' if k % 2 else 'rose'}\n" for k in range(12))
    path = write(tmp_path / "t.csv", f"{first}\n{rows}")
    if "?" in first:
        with pytest.raises(DatasetError, match="1 in column 'column 2', in row 1"):
            load_dataset(path, header=header)
        return
    if "Wild" in first:
        with pytest.raises(DatasetError, match="got 1 row of class 'Wild iris'"):
            load_dataset(path, header=header)
        return
    splits = load_dataset(path, header=header)
    assert sum(map(len, splits)) == 12 + (not taken)
    assert splits.train.feature_names == (tuple(first.split(",")[:2]) if taken else None)
    assert splits.train.label_columns == ((first.split(",")[2] if taken else "column 3"),)
    assert splits.train.notes[0].startswith("the first line")


def test_numbers_alone_without_a_header(tmp_path: Path):
    path = write(tmp_path / "t.csv", "".join(f"{k},{k * k},{k % 2}\n" for k in range(1, 21)))
    with pytest.raises(DatasetError, match=r"got numbers: '1', '1', '1'; if they are data, .*\(header='no'\)"):
        load_dataset(path)
    splits = load_dataset(path, header="no", label_column="column 2", task="regression")
    assert sum(map(len, splits)) == 20
    assert splits.train.label_names == ("column 2",)
    with pytest.raises(ConfigError, match="header must be one of auto, yes, no; got 'maybe'"):
        load_dataset(path, header="maybe")
    with pytest.raises(ConfigError, match="header must be omitted for 'iris', which is no CSV file"):
        load_dataset("iris", header="no")


def test_inputs_alone(tmp_path: Path):
    path = write(tmp_path / "t.csv", "1,2\n3,4\n")
    for names in (None, ("a", "b")):
        assert read_csv_inputs(path, names).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DatasetError, match="must have 3 feature columns, got 2 and no column names"):
        read_csv_inputs(path, ("a", "b", "c"))
    path = write(tmp_path / "t.csv", "b,text,a\n1,x,2\n")
    assert read_csv_inputs(path, ("a", "b")).tolist() == [[2, 1]]
    with pytest.raises(DatasetError, match="must have numbers in column 'text'"):
        read_csv_inputs(path, None)


def test_columns_are_taken_by_name(tmp_path: Path):
    path = write(tmp_path / "t.csv", "y,b,note,a\n" + "".join(f"{k % 2},{k},text,{k * 10}\n" for k in range(12)))
    splits = load_dataset(path, label_column="y", feature_names=("a", "b"))
    assert splits.train.inputs[3].tolist() == [30, 3]
    assert splits.train.feature_names == ("a", "b")
    with pytest.raises(DatasetError, match="must have the columns 'c', got 'y', 'b', 'note', 'a'"):
        load_dataset(path, label_column="y", feature_names=("a", "c"))


def test_many_columns_with_missing_values_are_counted(tmp_path: Path):
    text = "a,b,c,d,e,y\n" + ",,,,,p\n1,2,3,4,5,q\n" * 3
    with pytest.raises(DatasetError, match=r"column 'c', first in row 1 \(line 2\) \(and in 2 more columns\); fill"):
        load_dataset(write(tmp_path / "t.csv", text))


def test_lines_are_counted_as_an_editor_does(tmp_path: Path):
    text = 'x,label\n\n1,"two\nlines"\nfar,b\n'
    with pytest.raises(DatasetError, match=r"got 'far' in row 2 \(line 5\)"):
        load_dataset(write(tmp_path / "t.csv", text))


def test_unknown_columns(tmp_path: Path):
    path = write(tmp_path / "t.csv", flowers())
    with pytest.raises(DatasetError, match="must have the label column 'colour', got 'length', 'width', 'species'"):
        load_dataset(path, label_column="colour")
    for columns in ([], ["length", "length"]):
        with pytest.raises(ConfigError, match="label_column must be one column or several different ones"):
            load_dataset(path, label_column=columns)


def test_other_encodings_and_unreadable_files(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_bytes("größe,label\n1,a\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"must be text in UTF-8, got other bytes .*; save it as UTF-8"):
        load_dataset(path)
    path.write_bytes(b"a,label\n" + b"x" * 200_000 + b",1\n")
    with pytest.raises(DatasetError, match="must be CSV, got other text"):
        load_dataset(path)


# properties

# Category Cf holds the byte order mark.
CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp", "Zs"))
LABELS = st.text(CHARACTERS, min_size=1, max_size=8)
COLUMNS = LABELS.map(lambda text: f"c{text}")  # which are no numbers
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data(), delimiter=st.sampled_from(",;\t"), newline=st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_is_read(tmp_path: Path, data: st.DataObject, delimiter: str, newline: str):
    others = set(",;\t") - {delimiter}  # the header says which one separates
    names = COLUMNS.filter(lambda text: not others & set(text))
    columns = data.draw(st.lists(names, min_size=2, max_size=5, unique=True), label="columns")
    labels = data.draw(st.lists(LABELS, min_size=2, max_size=4, unique=True), label="labels")
    rows = data.draw(
        st.lists(
            st.tuples(st.lists(NUMBERS, min_size=len(columns) - 1, max_size=len(columns) - 1), st.sampled_from(labels)),
            min_size=3,
            max_size=30,
        ),
        label="rows",
    )
    rows += [([float(k)] * (len(columns) - 1), label) for k in range(3) for label in labels]  # enough of each
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=newline)
    writer.writerow(columns)
    writer.writerows([*map(repr, numbers), label] for numbers, label in rows)
    path = tmp_path / "t.csv"
    path.write_bytes(text.getvalue().encode())
    splits = load_dataset(path, label_column=columns[-1], task="classification")
    expected = sorted((*map(np.float32, numbers), label) for numbers, label in rows)
    got = sorted(
        (*inputs, str(split.label_names[label]))
        for split in splits
        for inputs, label in zip(split.inputs, split.labels, strict=True)
    )
    assert got == expected
    assert splits.train.feature_names == tuple(columns[:-1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(content=st.one_of(st.binary(max_size=200), st.text('ab1,;."\n\t ?-e', max_size=200).map(str.encode)))
def test_any_bytes_load_or_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    refusal = ""
    try:
        splits = load_dataset(path)
    except DatasetError as error:
        refusal = str(error)
    else:
        assert all(np.isfinite(split.inputs).all() for split in splits)
    assert not refusal or str(path) in refusal
