"""SQLAlchemy 2 as the agent: what an ORM asks of the catalogue, mapped classes, a unit of work."""

import sqlalchemy
from sqlalchemy import MetaData, create_engine, func, inspect, select
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import Session, joinedload

import chinook
from guard import DENIED, expect


def _engines(server):
    for connect in (chinook.as_superuser, chinook.as_agent):
        yield create_engine("postgresql+psycopg://", creator=lambda connect=connect: connect(server, autocommit=False))


def _same(server, work):
    wanted, found = (work(engine) for engine in _engines(server))
    assert wanted, "the work gives nothing to compare"
    assert found == wanted, f"the superuser got {wanted!r:.300}, the agent {found!r:.300}"


def _mapped(engine):
    base = automap_base()
    base.prepare(autoload_with=engine)
    return base.classes


def test_reflection(server):
    def work(engine):
        metadata = MetaData()
        metadata.reflect(bind=engine, views=True)
        return {
            name: (
                [(c.name, str(c.type), c.nullable, str(c.server_default)) for c in table.columns],
                sorted(str(key.target_fullname) for key in table.foreign_keys),
                [c.name for c in table.primary_key],
                sorted(index.name for index in table.indexes),
            )
            for name, table in metadata.tables.items()
        }

    _same(server, work)


def test_inspector(server):
    def work(engine):
        look = inspect(engine)
        return (
            look.get_schema_names(),
            sorted(look.get_table_names()),
            sorted(look.get_view_names()),
            look.get_view_definition("invoice_totals"),
            look.get_multi_columns().keys() == look.get_multi_pk_constraint().keys(),
            look.get_foreign_keys("track"),
            look.get_indexes("track"),
            look.get_unique_constraints("track"),
            look.get_check_constraints("track"),
            look.get_sequence_names(),
            look.get_table_comment("track"),
            look.dialect.server_version_info,
            look.default_schema_name,
        )

    _same(server, work)


def test_orm_reads(server):
    def work(engine):
        classes = _mapped(engine)
        with Session(engine) as session:
            query = select(classes.album).options(joinedload(classes.album.artist)).order_by(classes.album.album_id).limit(20)
            albums = [(album.title, album.artist.name) for album in session.scalars(query)]
            lengths = session.execute(
                select(classes.genre.name, func.sum(classes.track.milliseconds))
                .join(classes.track.genre)
                .group_by(classes.genre.name)
                .order_by(classes.genre.name)
            ).all()
            # A lazy load is a statement of its own.
            return albums, lengths, sorted(track.name for track in session.get(classes.album, 1).track_collection)

    _same(server, work)


def test_orm_writes(server):
    def work(engine):
        playlist = _mapped(engine).playlist
        with Session(engine) as session:
            session.add_all([playlist(playlist_id=n, name=f"list {n}") for n in range(890, 900)])
            session.flush()
            found = session.scalars(select(playlist.name).where(playlist.playlist_id >= 890).order_by(playlist.playlist_id)).all()
            session.rollback()
        return found

    _same(server, work)


def test_orm_refusals(server):
    _, engine = _engines(server)
    classes = _mapped(engine)

    def original(call):
        try:
            return call()
        except sqlalchemy.exc.DBAPIError as error:
            raise error.orig from None

    def flushed(change):
        with Session(engine) as session:
            change(session)
            original(session.flush)

    with Session(engine) as session:
        expect(DENIED, original, lambda: session.scalars(select(classes.employee)).all(), match="employee")
    with Session(engine) as session:
        customer = session.get(classes.customer, 1)
        expect(DENIED, original, lambda: customer.employee, match="employee")
    expect(DENIED, flushed, lambda session: session.add(classes.artist(artist_id=9002, name="x")), match="artist")
    expect(DENIED, flushed, lambda session: session.delete(session.get(classes.playlist, 18)))
    expect(DENIED, flushed, lambda session: setattr(session.get(classes.track, 1), "name", "x"), match="track")
    expect(DENIED, original, lambda: MetaData().create_all(engine) or sqlalchemy.Table("mine", MetaData(), sqlalchemy.Column("n", sqlalchemy.Integer)).create(engine))


if __name__ == "__main__":
    chinook.run(globals())
