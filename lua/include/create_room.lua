-- Writes the first fields of a room, without its status (see write_status). Times are milliseconds.
--
-- INCLUDE  clock, changes, caller, room_id

-- Adds to fields what it writes.
local function create_room(room, fields, generation, request, is_replayed)
  read_clock()
  fields.generation, fields.request, fields.is_new = generation, request, true
  if rank ~= '' then fields.world_size = world_size end
  if owner ~= '' then fields.owner = owner end
  -- Usually the id of its entry, of which each has up to 16 rooms with 5 items; if not, feed.lua corrects it.
  fields.opened = openings and now_ms .. '-' .. math.floor(#changes / 80)
  local entry = {'generation', generation, openings and 'opened' or 'opened_ms', fields.opened or now_ms}
  if request ~= '' then entry[5], entry[6] = 'request', request end
  if is_replayed then entry[#entry + 1], entry[#entry + 2] = 'replayed', '1' end
  if rank ~= '' then entry[#entry + 1], entry[#entry + 2] = 'world_size', world_size end
  if owner ~= '' then
    local n = #entry
    entry[n + 1], entry[n + 2], entry[n + 3], entry[n + 4] = 'owner', owner, 'incarnation', incarnation
    if rank ~= '' then entry[n + 3], fields[lease_field] = lease_field, incarnation end
    local added = redis.pcall('ZADD', KEYS[4], incarnation, room_id(room))
    if type(added) == 'table' then
      -- A key of another type was made by hand: nothing else removes it. At maxmemory, both calls fail.
      if type(redis.pcall('ZCARD', KEYS[4])) == 'table' then redis.call('DEL', KEYS[4]) end
      redis.call('ZADD', KEYS[4], incarnation, room_id(room))
    end
    if not renew then redis.call('PEXPIRE', KEYS[4], ARGV[4]) end
  end
  redis.call('HSET', room, unpack(entry))
  renew = true  -- of this call, the first room that is created
end
