-- The names of a rank's fields: its status, its last status once it has cleared, its decode prefix length. Without a
-- rank, status and length have no number, and nothing has the empty name.

local function rank_fields(rank)
  if rank == '' then return 'status', '', 'length' end
  return 'status:' .. rank, 'cleared:' .. rank, 'length:' .. rank
end
