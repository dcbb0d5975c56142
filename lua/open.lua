-- Open each room for a request: a new generation, or the existing one of this request. Times are milliseconds.
--
-- KEYS     feed, epoch, leases, owned; each: room, prefix
-- ARGV     feed_length, ttl_ms, terminal_ttl_ms, epoch_ttl_ms, nonce, rank, world_size, owner,
--          incarnation, author; each: request, status, seen
-- REPLY    feed_id, epoch; each: outcome, status, generation, age_ms, of_owner, of_request, opened
-- FEED     ttl_ms, status, first, request, rank, owner
-- CODES    1 CREATED, 3 UNCHANGED, 4 FAILED, -1 BUSY, -2 LEASE, -3 WORLD_SIZE, -4 CORRUPT
-- INCLUDE  quick_open, ensure_epoch, is_lease_lost, numbers, read_room, corrupt_field, rank_view,
--          next_generation, room_id, replace_room, write_status, feed_end, refused, feed
--
-- A room is free when it is absent, or Failed for another request; its old fields are dropped. With BUSY, of_owner and
-- of_request are the room's; with CORRUPT, a field and its value replace the status. A rank that opens a Failed room of
-- its own request is created Failed. seen is the highest generation that the caller knows. A decode prefix length
-- recorded before the room existed stays; one of a former generation is dropped. opened is the id of the entry that
-- tells the opening. If no entry was appended, feed_id is the feed's last one, with a room and its status:
-- <id>/<room>/<status>.

local lease_lost = is_lease_lost()  -- before any write: a key of another type (made by hand) refuses the call
local reply = {false, ensure_epoch(KEYS[2], ARGV[5], ARGV[4])}
read_clock()
local generation

for i = 1, (#ARGV - 10) / 3 do
  local room, prefix = KEYS[i * 2 + 3], KEYS[i * 2 + 4]
  local request, incoming, seen = ARGV[i * 3 + 8], ARGV[i * 3 + 9], ARGV[i * 3 + 10]
  local fields, type_error = read_room(room, true)
  local outcome, status = 3, type_error or fields.status or false
  local is_mine = fields.status and fields.request == request
  local corrupt = is_mine and corrupt_field(fields)
  if type_error then
    outcome = 3
  elseif corrupt then
    outcome, status = -4, corrupt
  elseif lease_lost then
    outcome, status = -2, owner
  elseif fields.status and not is_mine and fields.status ~= 'Failed' then
    outcome = -1
  elseif is_mine and fields[cleared_field] then
    outcome = -1
  elseif is_mine and (fields.world_size or '') ~= world_size then
    outcome, status = -3, fields.world_size or ''
  elseif is_mine and fields[status_field] then
    status = rank_view(fields.status, fields[status_field], fields[cleared_field])
  else
    outcome = 1
    if is_mine then
      if fields.status == 'Failed' then outcome, incoming = 4, 'Failed' end
    else
      generation = generation or next_generation(seen)  -- the first write: at maxmemory, it is refused
      if owner == '' and (fields.owner or fields.world_size) then redis.pcall('ZREM', KEYS[4], room_id(room)) end
      openings = openings or {keys = 4, width = 7}
      fields = replace_room(room, prefix, fields, generation, request)
      openings[#changes / 5 + 1] = i
    end
    write_status(room, fields, incoming, '')
    status = rank_view(fields.status, fields[status_field], fields[cleared_field])
  end
  if outcome < 0 then
    refused = refused or {}
    refused[outcome] = (refused[outcome] or 0) + 1
    refused_room, refused_by = room, owner
  end
  local opened_ms = string.match(fields.opened or fields.opened_ms or now_ms, '^%d+') or now_ms
  if not is_number(opened_ms) then opened_ms = now_ms end
  local age_ms = string.format('%.0f', now_ms - opened_ms)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = outcome, status, fields.generation or false, age_ms
  reply[n + 5], reply[n + 6], reply[n + 7] = fields.owner or false, fields.request or false, fields.opened or false
  if fields_read > MAX_FIELDS then break end
end
if #new_parts > 0 then list_new_rooms() end
if #changes == 0 then reply[1] = table.concat({feed_end(KEYS[1])}, '/') end
