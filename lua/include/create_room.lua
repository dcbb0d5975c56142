-- A new room. create_room collects its fields, and write_status writes them with its first status, by one HSET. Times
-- are milliseconds.
--
-- INCLUDE  clock, changes, caller, room_id, is_other_type

-- The words of that HSET. Those that all new rooms of a call share come first, and are set once.
local room_words, shared_count, is_created
local entry_id  -- that the entry with its opening will have
local new_parts = {}  -- the new rooms for the list of the lease's, which are added together

-- Lists the new rooms of a call, for the lease. A script calls it at its end, if there are any.
local function list_new_rooms()
  for first = 1, #new_parts, 256 do
    local last = math.min(first + 255, #new_parts)
    local added = redis.pcall('ZADD', KEYS[4], unpack(new_parts, first, last))
    if type(added) == 'table' then
      -- A key of another type was made by hand: nothing else removes it. At maxmemory, both calls fail.
      if is_other_type(redis.pcall('ZCARD', KEYS[4])) then redis.call('DEL', KEYS[4]) end
      redis.call('ZADD', KEYS[4], unpack(new_parts, first, last))
    end
  end
  redis.call('PEXPIRE', KEYS[4], ARGV[4])
end

-- Adds to fields what will be written. They have the generation, the request and the owner; the clock was read.
-- changed_ms: for a room that is replayed, the time of its last change, or empty.
local function create_room(room, fields, changed_ms)
  if not room_words then
    room_words = {'status', '', 'generation', '', openings and 'opened' or 'opened_ms', now_ms, 'updated_ms', now_ms}
    local n = 8
    if owner ~= '' then
      room_words[9], room_words[10], room_words[11] = 'owner', owner, rank ~= '' and lease_field or 'incarnation'
      room_words[12], n = incarnation, 12
    end
    if rank ~= '' then
      room_words[n + 1], room_words[n + 2], n = 'world_size', world_size, n + 2
    end
    if changed_ms then
      room_words[n + 1], room_words[n + 2], n = 'replayed', '1', n + 2
    end
    shared_count = n
  end
  room_words[4], is_created = fields.generation, true
  if changed_ms then
    room_words[8] = #changed_ms == #now_ms and changed_ms < now_ms and changed_ms or now_ms
  end
  if openings then
    -- Usually the id of its entry, of which each has up to 16 rooms with 5 items; if not, feed.lua corrects it.
    local n = #changes
    if not entry_id or n % 80 == 0 then entry_id = now_ms .. '-' .. string.format('%d', n / 80) end
    room_words[6], fields.opened = entry_id, entry_id
  end
  if rank ~= '' then fields.world_size = world_size end
  if owner ~= '' then
    if rank ~= '' then fields[lease_field] = incarnation end
    new_parts[#new_parts + 1] = incarnation
    new_parts[#new_parts + 1] = room_id(room)
  end
  renew = true  -- of this call, the first room that is created
end
